//! What can be wrong with a configuration, said so that it can be put right: what, where, what to do next.

use std::fmt;
use std::path::PathBuf;

use figment::error::Kind as Cause;

use super::load::Loaded;
use super::{ENV_PREFIX, schema};

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin} is not valid TOML: {detail}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, column and what was expected.
        detail: String,
    },
    /// An environment variable with our prefix is not UTF-8.
    #[error("environment variable {0} is not UTF-8")]
    EnvNotUtf8(String),
    /// `--set` without a key or without `=`.
    #[error("--set {0} is not of the form key.path=value")]
    SetWithoutValue(String),
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}")]
    UnknownKey {
        /// Dotted path.
        key: String,
        /// Where it was found: a file with its line, a variable, or `--set`.
        origin: String,
        /// The known key that is most like it, spelled as its origin spells keys.
        nearest: Option<String>,
    },
    /// Values that have the wrong kind or make no sense.
    #[error("{}", faults_text(.0))]
    Invalid(Vec<Fault>),
}

impl ConfigError {
    /// What to do next, where there is something to say.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("check --config and RUYI_CONFIG; without them ./ruyi.toml is read".into()),
            Self::SetWithoutValue(_) => Some("for example: --set mq.queues=8".into()),
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownKey { nearest: None, .. } => {
                Some("`ruyi config show` lists the keys; config.example.toml explains them".into())
            }
            Self::Invalid(faults) => {
                let lines: Vec<&str> = faults.iter().map(|f| f.help.as_str()).filter(|h| !h.is_empty()).collect();
                (!lines.is_empty()).then(|| lines.join("\n      "))
            }
            Self::Syntax { .. } | Self::EnvNotUtf8(_) => None,
        }
    }
}

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of the key.
    pub key: String,
    /// Where the value came from; empty until it is known.
    pub origin: String,
    /// What is wrong.
    pub problem: String,
    /// What to do; may be empty.
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.key)?;
        if !self.origin.is_empty() {
            write!(f, " in {}", self.origin)?;
        }
        write!(f, ": {}", self.problem)
    }
}

fn faults_text(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n       ")
}

impl Loaded {
    /// figment's error in our words.
    pub(super) fn explain(&self, error: &figment::Error) -> ConfigError {
        let key = error.path.join(".");
        let origin = error.metadata.as_ref().map_or_else(String::new, |metadata| metadata.name.to_string());
        let origin = self.with_line(origin, &error.path);
        match &error.kind {
            Cause::UnknownField(_, siblings) => {
                let nearest = schema::nearest(&self.example, &error.path, siblings);
                let nearest =
                    nearest.map(|nearest| if origin.contains(ENV_PREFIX) { env_name(&nearest) } else { nearest });
                ConfigError::UnknownKey { key, origin, nearest }
            }
            cause => ConfigError::Invalid(vec![Fault {
                problem: problem_text(cause, &key),
                key,
                origin,
                help: String::new(),
            }]),
        }
    }

    /// Fills in where the faulty value came from.
    pub(super) fn locate(&self, mut fault: Fault) -> Fault {
        let path: Vec<String> = fault.key.split('.').map(str::to_owned).collect();
        if let Some(metadata) = self.figment.find_metadata(&fault.key) {
            fault.origin = self.with_line(metadata.name.to_string(), &path);
        }
        fault
    }

    /// Adds the line when `origin` is the file that was read.
    fn with_line(&self, origin: String, path: &[String]) -> String {
        match &self.file {
            Some((file, text)) if file.display().to_string() == origin => match line_of(text, path) {
                Some(line) => format!("{origin} line {line}"),
                None => origin,
            },
            _ => origin,
        }
    }
}

/// serde names Rust types; the reader of a configuration file knows TOML's.
fn in_toml_words(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a string" | "string" | "path string" => "a text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list [...]",
        _ if wanted.starts_with("struct ") || wanted == "a map" => "a table of settings",
        _ => wanted,
    }
}

fn problem_text(cause: &Cause, key: &str) -> String {
    match cause {
        Cause::InvalidType(found, wanted) | Cause::InvalidValue(found, wanted) => {
            let wanted = in_toml_words(wanted);
            // The value found is not repeated where it may be a secret.
            if may_be_secret(key) { format!("expected {wanted}") } else { format!("expected {wanted}, found {found}") }
        }
        Cause::UnknownVariant(found, known) => {
            let nearest = known.iter().max_by(|a, b| strsim::jaro(found, a).total_cmp(&strsim::jaro(found, b)));
            let hint = nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
            format!("{found:?} is none of {}{hint}", known.join(", "))
        }
        other => other.to_string(),
    }
}

fn may_be_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or_default();
    name == "url" || name.ends_with("key") || name.contains("secret") || name.contains("password")
}

/// `mq.namesrv` → `RUYI_MQ__NAMESRV`.
fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The line (from 1) at which the key, or the last part of its path that is there, is written.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let parsed = toml::de::DeTable::parse(text).ok()?;
    let mut table = parsed.get_ref();
    let mut at = None;
    for segment in path {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == segment) else { break };
        at = Some(key.span().start);
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    at.map(|at| line_and_column(text, at).0)
}

/// Line and column, both from 1, of a byte offset.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
