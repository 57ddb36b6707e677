//! `ruyi worker`: background work without HTTP and without consuming, in processes of its own.

mod backlog;
mod retry;
mod timeout;

use std::process::ExitCode;

use clap::Subcommand;

use super::{Context, WithHelp};
use crate::domain::event::Role;
use crate::fault::Faults;
use crate::process::{Plan, Process, Work};

/// Do background work until the process is told to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "Any number of each may run: what one has claimed the others leave alone.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch how far consumer groups are behind; alert, and ask for more instances
    Backlog(backlog::Args),
    /// Try parked messages again, and send what outboxes still hold
    Retry(retry::Args),
    /// Cancel orders that were not paid in time
    Timeout(timeout::Args),
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Listen {
    /// Answer /healthz, /readyz and /metrics at this address; port 0 takes any free one [default: http.worker]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<std::net::SocketAddr>,
}

/// Runs the worker.
///
/// # Errors
/// When it does not start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Backlog(args) => backlog::run(context, args).await,
        Command::Retry(args) => retry::run(context, args).await,
        Command::Timeout(args) => timeout::run(context, args).await,
    }
}

fn role(text: &str) -> Result<Role, String> {
    let names = Role::ALL.map(Role::name).join(", ");
    Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| format!("not one of {names}"))
}

#[derive(serde::Serialize)]
struct Working<'a> {
    worker: &'static str,
    roles: Vec<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    namesrv: Option<&'a str>,
}

/// Does `work` for `roles` until told to stop.
async fn work(
    context: &Context,
    name: &'static str,
    work: Work,
    roles: &[Role],
    listen: Listen,
) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        faults: Faults::from_env(),
        clock: context.clock.clone(),
        ..Plan::new(roles, work, listen.listen.or(context.config.http.worker))
    };
    let process =
        Process::start(&context.config, plan).await.help("`ruyi config show` prints the effective settings")?;
    process.shutdown().on_signals()?;
    let roles = roles.iter().map(|role| role.name()).collect();
    tracing::info!(worker = name, broker = process.namesrv().unwrap_or("none"), "working");
    context.output().row(&Working { worker: name, roles, url: process.base_url(), namesrv: process.namesrv() })?;
    process.shutdown().token.cancelled().await;
    tracing::info!("stopping");
    Ok(if process.stop().await.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
