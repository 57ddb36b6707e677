//! `ruyi mq`: the broker.

#[cfg(feature = "embedded")]
pub mod broker;
pub mod tx;

use std::process::ExitCode;

use clap::Subcommand;

use super::Context;

/// Work with the broker
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the embedded name server and broker until the process is told to stop
    #[cfg(feature = "embedded")]
    Broker(broker::Args),
    /// Look at transaction messages that the broker has given up asking about, and deliver those that are due
    Tx(tx::Args),
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever the subcommand could not do.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        #[cfg(feature = "embedded")]
        Command::Broker(args) => broker::run(context, &args).await,
        Command::Tx(args) => tx::run(context, args).await,
    }
}
