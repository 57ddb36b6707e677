//! `ruyi config`: what is configured.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::Context;
use crate::config::Config;
use crate::output::{Format, Output, VERSION};

/// Arguments of `ruyi config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the effective settings, with secrets masked: TOML, or JSON with --output json
    #[command(after_help = "Examples:\n  ruyi config show\n  ruyi config show --output json | jq .config.mq.namesrv")]
    Show,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    config: &'a Config,
}

/// Runs `ruyi config ...`.
///
/// # Errors
/// The output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Show => show(context),
    }
}

fn show(context: &Context) -> anyhow::Result<ExitCode> {
    let document = Document { version: VERSION, config: &context.config };
    let mut text = match context.asked_output {
        None | Some(Format::Table) => {
            toml::to_string(&context.config).context("cannot write the configuration as TOML")?
        }
        Some(Format::Json) => serde_json::to_string_pretty(&document)?,
        Some(Format::Jsonl) => serde_json::to_string(&document)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut output = Output::stdout(Format::Table);
    output.text(&text)?;
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
