//! Why a call failed, in one line.

use std::fmt;

use reqwest::StatusCode;

use crate::http::Problem;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The role answered that it will not.
    #[error("{}", Line(.0))]
    Refused(Box<Problem>),
    /// No answer came, however often it was tried.
    #[error("no answer from {url}")]
    Unreachable {
        /// What was called.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The answer is not what the API promises.
    #[error("the answer of {url} cannot be read")]
    Garbled {
        /// What was called.
        url: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The client could not be made.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(String),
}

impl CallError {
    pub(super) fn unreachable(url: &str, source: reqwest::Error) -> Self {
        Self::Unreachable { url: url.to_owned(), source: source.without_url() }
    }

    /// The status of the refusal, if it was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(problem) => Some(problem.status_code()),
            _ => None,
        }
    }
}

/// `422 invalid: what is wrong (items[0].quantity: why)`.
struct Line<'a>(&'a Problem);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.0.kind.rsplit(':').next().unwrap_or_default();
        write!(f, "{} {word}", self.0.status)?;
        match &self.0.detail {
            Some(detail) => write!(f, ": {detail}")?,
            None => write!(f, ": {}", self.0.title)?,
        }
        for (n, field) in self.0.errors.iter().enumerate() {
            write!(f, "{}{}: {}", if n == 0 { " (" } else { ", " }, field.field, field.detail)?;
        }
        if self.0.errors.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}
