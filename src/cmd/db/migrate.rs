//! `ruyi db migrate`: the schema.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::super::Context;
use super::targets;
use crate::config::Millis;
use crate::db::migrate;
use crate::output::Format;

/// Arguments of `ruyi db migrate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ruyi db migrate --wait-for 30s\n  ruyi db migrate --dry-run --show-sql")]
pub struct Args {
    /// Print what is missing, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the SQL of each step, too
    #[arg(long)]
    show_sql: bool,

    /// Wait so long for the database to answer, for example 30s
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    wait_for: Millis,
}

#[derive(Serialize)]
struct Row {
    database: String,
    roles: String,
    version: i64,
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<String>,
}

/// Runs `ruyi db migrate`.
///
/// # Errors
/// The database cannot be reached, was migrated by a newer version, or refuses a step.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let status = if args.dry_run { "missing" } else { "applied" };
    let mut output = context.output();
    let mut rows = 0_usize;
    for target in targets(&context.config) {
        migrate::wait_for(&target.url, args.wait_for.duration())
            .await
            .with_context(|| format!("cannot reach {}", target.shown))?;
        let steps = if args.dry_run { migrate::pending(&target.url).await } else { migrate::run(&target.url).await };
        for step in steps.with_context(|| format!("cannot migrate {}", target.shown))? {
            rows += 1;
            output.row(&Row {
                database: target.shown.clone(),
                roles: target.roles.clone(),
                version: step.version,
                name: step.name,
                status,
                sql: args.show_sql.then_some(step.sql),
            })?;
        }
    }
    if rows == 0 && context.format() == Format::Table {
        output.text("the schema is up to date\n")?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
