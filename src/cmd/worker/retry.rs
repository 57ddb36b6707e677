//! `ruyi worker retry`: the retry lanes and the outbox sweep of some roles.

use std::process::ExitCode;

use super::{Listen, work};
use crate::cmd::Context;
use crate::domain::event::Role;
use crate::process::Work;

/// Try parked messages again, and send what outboxes still hold
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ruyi worker retry\n  ruyi worker retry --listen 127.0.0.1:0")]
pub struct Args {
    /// Only for this role; may be repeated [default: all roles]
    #[arg(long = "role", value_name = "ROLE", value_parser = super::role)]
    roles: Vec<Role>,

    #[command(flatten)]
    listen: Listen,
}

/// Runs the worker.
///
/// # Errors
/// When it does not start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let chosen: Vec<Role> =
        Role::ALL.into_iter().filter(|role| args.roles.is_empty() || args.roles.contains(role)).collect();
    work(context, "retry", Work::RETRY, &chosen, args.listen).await
}
