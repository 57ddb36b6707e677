//! `ruyi completion`: commands and options for the Tab key.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::output::OutputError;

/// Print what a shell needs to complete the commands and their options
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    source <(ruyi completion bash)\n  \
    ruyi completion zsh > \"${fpath[1]}/_ruyi\"\n  \
    ruyi completion fish > ~/.config/fish/completions/ruyi.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ruyi", &mut script);
    io::stdout().write_all(&script).map_err(OutputError::from)?;
    Ok(ExitCode::SUCCESS)
}
