//! Reading the layers and merging them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::{ConfigError, Fault, line_and_column};
use super::schema::{self, Kind};
use super::{Config, EXAMPLE, NOTICES_EXAMPLE};

/// What the names of environment variables begin with; `__` stands between levels.
pub const ENV_PREFIX: &str = "RUYI_";

/// Variables with the prefix that are not settings: the file's path, and switches of the test suite.
const NOT_SETTINGS: [&str; 3] = ["RUYI_CONFIG", "RUYI_TEST_", crate::fault::CRASH_AT];

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist (`--config` or `RUYI_CONFIG`).
    pub file: Option<PathBuf>,
    /// A file that is read when it exists and `file` is not set (`./ruyi.toml`).
    pub fallback_file: Option<PathBuf>,
    /// Environment variables; those without the prefix are skipped.
    pub env: Vec<(String, String)>,
    /// `--set key.path=value`, in order.
    pub sets: Vec<String>,
}

impl Sources {
    /// The sources of this process.
    ///
    /// # Errors
    /// An environment variable of ours that is not UTF-8.
    pub fn of_process(file: Option<PathBuf>, sets: Vec<String>) -> Result<Self, ConfigError> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else { continue };
            let value = value.into_string().map_err(|_: OsString| ConfigError::EnvNotUtf8(name.to_owned()))?;
            env.push((name.to_owned(), value));
        }
        env.sort();
        let from_env = env.iter().find(|(name, value)| name == "RUYI_CONFIG" && !value.is_empty());
        let file = file.or_else(|| from_env.map(|(_, value)| PathBuf::from(value)));
        Ok(Self { file, fallback_file: Some(PathBuf::from("ruyi.toml")), env, sets })
    }
}

/// One value from the environment or the command line, with the name of its origin.
struct Override {
    origin: Origin,
    dict: Dict,
}

impl Provider for Override {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// Where a value came from, in the words of error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Example,
    File { path: PathBuf },
    Env { name: String },
    Set { text: String },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Example => f.write_str("the built-in defaults"),
            Self::File { path } => write!(f, "{}", path.display()),
            Self::Env { name } => write!(f, "environment variable {name}"),
            // Without the value: it may be a secret.
            Self::Set { text } => write!(f, "--set {text}"),
        }
    }
}

/// The text of the file that was read, to find lines in it.
pub(super) struct Loaded {
    pub figment: Figment,
    pub example: Dict,
    pub file: Option<(PathBuf, String)>,
}

impl Config {
    /// Reads, merges and validates all layers.
    ///
    /// # Errors
    /// [`ConfigError`]: a file that cannot be read or is not TOML, an unknown key (with the nearest known one), a
    /// value of the wrong kind, or values that make no sense together; each names its origin.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let loaded = read(sources)?;
        let config: Self = loaded.figment.extract().map_err(|error| loaded.explain(&error))?;
        let faults: Vec<Fault> = config.faults().into_iter().map(|fault| loaded.locate(fault)).collect();
        if faults.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(faults)) }
    }

    /// The built-in defaults.
    ///
    /// # Errors
    /// None in a released binary: a test loads the same text.
    pub fn example() -> Result<Self, ConfigError> {
        Self::load(&Sources::default())
    }
}

fn read(sources: &Sources) -> Result<Loaded, ConfigError> {
    let named = |toml| Named { origin: Origin::Example, toml };
    let base = Figment::from(named(EXAMPLE)).merge(named(NOTICES_EXAMPLE));
    let example: Dict = base
        .extract()
        .map_err(|error| ConfigError::Syntax { origin: Origin::Example.to_string(), detail: error.to_string() })?;
    let file = read_file(sources)?;
    let mut figment = base;
    if let Some((path, text)) = &file {
        // Parsed here first, for the line and column of a syntax error.
        toml::de::DeTable::parse(text).map_err(|error| syntax_error(path, text, &error))?;
        figment = figment.merge(Named { origin: Origin::File { path: path.clone() }, toml: text });
    }
    for (name, value) in &sources.env {
        if let Some(path) = env_path(name) {
            figment = figment.merge(Override::new(&example, Origin::Env { name: name.clone() }, &path, value));
        }
    }
    for set in &sources.sets {
        let (key, value) = set.split_once('=').ok_or_else(|| ConfigError::SetWithoutValue(set.clone()))?;
        let path: Vec<String> = key.trim().split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(ConfigError::SetWithoutValue(set.clone()));
        }
        figment = figment.merge(Override::new(&example, Origin::Set { text: key.trim().to_owned() }, &path, value));
    }
    Ok(Loaded { figment, example, file })
}

fn read_file(sources: &Sources) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let load = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })
            .map(|text| Some((path.to_path_buf(), text)))
    };
    match (&sources.file, &sources.fallback_file) {
        (Some(path), _) => load(path),
        (None, Some(path)) if path.is_file() => load(path),
        _ => Ok(None),
    }
}

/// Without the line itself, which toml's own message shows: it may hold a secret.
fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
    let detail = format!("line {line}, column {column}: {}", error.message());
    ConfigError::Syntax { origin: path.display().to_string(), detail }
}

/// TOML text under the name of its origin.
struct Named<'a> {
    origin: Origin,
    toml: &'a str,
}

impl Provider for Named<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Toml::string(self.toml).data()
    }
}

/// `RUYI_MQ__NAMESRV` → `mq.namesrv`. Names of events, under `mq.topics` and `mq.zones`, are upper case in the catalogue,
/// all else is lower.
fn env_path(name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(ENV_PREFIX)?;
    if NOT_SETTINGS.iter().any(|other| name == *other || (other.ends_with('_') && name.starts_with(other))) {
        return None;
    }
    let mut path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let is_of_events =
        matches!(path.as_slice(), [mq, table, ..] if mq == "mq" && (table == "topics" || table == "zones"));
    if is_of_events {
        let names = path.iter_mut().skip(2).filter(|name| *name != "default");
        names.for_each(|name| *name = name.to_uppercase());
    }
    Some(path)
}

impl Override {
    /// The kind of the key in the example decides how the text is read: `12345` is a good access key.
    fn new(example: &Dict, origin: Origin, path: &[String], raw: &str) -> Self {
        let value = match schema::kind_of(example, path) {
            Kind::Text => Value::from(raw),
            Kind::List if !raw.trim_start().starts_with('[') => {
                let items = raw.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::from(items.map(Value::from).collect::<Vec<_>>())
            }
            _ => parse_toml(raw).unwrap_or_else(|| Value::from(raw)),
        };
        let mut path = path.iter().rev();
        let mut dict = Dict::new();
        if let Some(last) = path.next() {
            dict.insert(last.clone(), value);
        }
        for table in path {
            dict = Dict::from([(table.clone(), Value::from(dict))]);
        }
        Self { origin, dict }
    }
}

fn parse_toml(raw: &str) -> Option<Value> {
    let text = format!("value = {}", raw.trim());
    toml::from_str::<Dict>(&text).ok()?.remove("value")
}
