//! From an error to what the user reads and what the shell sees.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use crate::config::{ConfigError, NotExposable};
use crate::http::ListenError;
use crate::output::OutputError;

/// What was asked for could not be done.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// The command line asks for something that makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An error with advice; made by [`WithHelp::help`].
#[derive(Debug)]
pub struct Helped {
    error: anyhow::Error,
    help: String,
}

impl std::fmt::Display for Helped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Helped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds what to do next to an error; it is printed as `help: ...`.
pub trait WithHelp<T> {
    /// `text` says what the user can do.
    ///
    /// # Errors
    /// The error of `self`, with the text.
    fn help(self, text: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHelp<T> for Result<T, E> {
    fn help(self, text: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Helped { error: error.into(), help: text.into() }))
    }
}

/// Items of a bulk that failed: each is told on stderr, and the exit code is 1 in the end.
#[derive(Debug, Default)]
pub struct Failed(u64);

impl Failed {
    /// One more: `item` did not work out.
    ///
    /// # Errors
    /// Stderr is gone.
    pub fn note(&mut self, item: &str, error: &(impl std::fmt::Display + ?Sized)) -> std::io::Result<()> {
        self.0 += 1;
        writeln!(std::io::stderr(), "{item}: {error}")
    }

    /// 0 when nothing failed.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        if self.0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Ends the program: prints the error with its causes and advice, and chooses the exit code (0, 1 or 2).
pub fn conclude(result: anyhow::Result<ExitCode>) -> ExitCode {
    conclude_as(result, FAILED)
}

/// As [`conclude`], with a code of its own for what failed, where 1 is an answer.
pub(super) fn conclude_as(result: anyhow::Result<ExitCode>, failed: u8) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    // `ruyi ... | head` is a success.
    if find::<OutputError>(&error).is_some_and(|error| matches!(error, OutputError::Closed)) {
        return ExitCode::SUCCESS;
    }
    // Nothing can be done when stderr is gone, too.
    let _ = std::io::stderr().write_all(text(&error).as_bytes());
    let usage = find::<ConfigError>(&error).is_some() || find::<Usage>(&error).is_some();
    ExitCode::from(if usage { USAGE } else { failed })
}

fn text(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  caused by: {cause}\n"));
    }
    if let Some(help) = help(error) {
        text.push_str(&format!("help: {help}\n"));
    }
    text
}

fn help(error: &anyhow::Error) -> Option<String> {
    let not_exposable = || {
        find::<NotExposable>(error).or_else(|| match find::<ListenError>(error)? {
            ListenError::NotExposable(inner) => Some(inner),
            ListenError::Bind { .. } => None,
        })
    };
    find::<Helped>(error)
        .map(|helped| helped.help.clone())
        .or_else(|| find::<ConfigError>(error).and_then(ConfigError::help))
        .or_else(|| not_exposable().map(|refused| refused.help.clone()))
}

/// The first error of this type in the chain, also inside [`Helped`].
fn find<E: Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| {
        cause.downcast_ref::<E>().or_else(|| cause.downcast_ref::<Helped>().and_then(|helped| find(&helped.error)))
    })
}
