//! The journal of what operators changed: who, when, why, what. One JSON object per line, appended and synced before
//! the change is made, so that an attempt that dies half-way is there as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

pub use crate::clock::rfc3339;
use crate::cmd::Context;
use crate::config::Config;

/// An entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a, T: Serialize> {
    at: String,
    who: String,
    command: &'a str,
    reason: Option<&'a str>,
    what: &'a T,
}

/// Where the journal is.
#[must_use]
pub fn path(config: &Config) -> PathBuf {
    config.data_dir.join("journal.jsonl")
}

/// Writes that `command` is about to do `what`.
///
/// # Errors
/// The file cannot be written: nothing may be changed then.
pub fn record<T: Serialize>(context: &Context, command: &str, reason: Option<&str>, what: &T) -> anyhow::Result<()> {
    let path = path(&context.config);
    let shown = path.display().to_string();
    let entry = Entry { at: rfc3339(context.clock.now_ms()), who: who(), command, reason, what };
    let mut line = serde_json::to_vec(&entry)?;
    line.push(b'\n');
    let mut file = open(path).with_context(|| format!("cannot write the journal {shown}, so nothing was changed"))?;
    file.write_all(&line).and_then(|()| file.sync_data()).with_context(|| format!("cannot write {shown}"))
}

fn open(path: PathBuf) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Who runs this: the user, and the one before `sudo`.
fn who() -> String {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let user = name("USER").or_else(|| name("LOGNAME")).or_else(user_id).unwrap_or_else(|| String::from("unknown"));
    match name("SUDO_USER") {
        Some(before) => format!("{before} as {user}"),
        None => user,
    }
}

/// Containers and service managers name no user in the environment.
fn user_id() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    Some(format!("uid {}", std::fs::metadata("/proc/self").ok()?.uid()))
}
