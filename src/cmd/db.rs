//! `ruyi db`: the tables.

mod migrate;
pub(super) mod prune;

use std::process::ExitCode;

use clap::Subcommand;

use super::Context;
use crate::config::{Config, SecretUrl};
use crate::domain::event::Role;

/// Arguments of `ruyi db`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create the tables, or bring them up to date
    Migrate(migrate::Args),
    /// Delete what is old and no longer needed: sent events, known duplicates, logs
    Prune(prune::Args),
}

/// Runs `ruyi db ...`.
///
/// # Errors
/// What the database said.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Migrate(args) => migrate::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
    }
}

/// A database, and the roles whose tables are in it.
pub(super) struct Target {
    /// With its password.
    pub url: String,
    /// Fit to be printed.
    pub shown: String,
    /// Names of the roles, comma-separated.
    pub roles: String,
}

/// The databases of the roles, each once.
pub(super) fn targets(config: &Config) -> Vec<Target> {
    let target = |(url, roles): (SecretUrl, Vec<Role>)| Target {
        url: url.expose().to_owned(),
        shown: url.masked(),
        roles: roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(","),
    };
    config.databases(&Role::ALL).into_iter().map(target).collect()
}
