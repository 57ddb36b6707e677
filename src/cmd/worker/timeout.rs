//! `ruyi worker timeout`: cancels orders that were not paid in time.

use std::process::ExitCode;

use super::{Listen, work};
use crate::cmd::Context;
use crate::domain::event::Role;
use crate::process::Work;

/// Cancel orders that were not paid in time
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ruyi worker timeout")]
pub struct Args {
    #[command(flatten)]
    listen: Listen,
}

/// Runs the worker.
///
/// # Errors
/// When it does not start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    work(context, "timeout", Work::TIMEOUT, &[Role::Order], args.listen).await
}
