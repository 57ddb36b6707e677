//! What changes something is shown first: `--dry-run` stops there, a terminal is asked, anything else needs `--yes`.

use std::io::{IsTerminal, Write};

use super::Usage;

/// Options of the commands that change something on a cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Change {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

impl Change {
    /// Fails early where [`Change::approved`] could not ask later.
    ///
    /// # Errors
    /// [`Usage`] when nobody can be asked and nobody said yes.
    pub fn askable(&self, what: &str) -> anyhow::Result<()> {
        let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if self.dry_run || self.yes || terminal {
            return Ok(());
        }
        Err(Usage(format!("about to {what}: say --yes, or --dry-run to only look")).into())
    }

    /// True when it is to be done, false with `--dry-run`. `what` completes "About to ...".
    ///
    /// # Errors
    /// [`Usage`] when nobody can be asked and nobody said yes; somebody said no; the terminal's own.
    pub fn approved(&self, what: &str) -> anyhow::Result<bool> {
        if self.dry_run {
            return Ok(false);
        }
        if self.yes {
            return Ok(true);
        }
        self.askable(what)?;
        let mut stderr = std::io::stderr();
        write!(stderr, "About to {what}. Go on? [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            // What comes after it in a script counts on its being done.
            _ => anyhow::bail!("the answer was not yes, so nothing was done"),
        }
    }
}
