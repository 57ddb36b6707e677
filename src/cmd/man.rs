//! `ruyi man`: the help texts as manual pages.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Usage};
use crate::output::OutputError;

/// Print manual pages, or write them into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ruyi man | man -l -\n  \
    ruyi man mq dlq replay | man -l -\n  \
    ruyi man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// The subcommand that the page is about [default: ruyi itself]
    #[arg(value_name = "COMMAND")]
    path: Vec<String>,
    /// Write a page for ruyi and for each subcommand here instead
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    dir: Option<PathBuf>,
}

/// Prints or writes the pages.
///
/// # Errors
/// [`Usage`] for a subcommand that is not there; files or output that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.dir {
        let shown = dir.display();
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {shown}"))?;
        clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("cannot write the pages into {shown}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    for name in &args.path {
        command = command.find_subcommand(name).ok_or_else(|| {
            Usage(format!("there is no command `ruyi {}`; `ruyi --help` lists them", args.path.join(" ")))
        })?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    io::stdout().write_all(&page).map_err(OutputError::from)?;
    Ok(ExitCode::SUCCESS)
}
