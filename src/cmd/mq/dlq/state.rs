//! What was done with the dead letters of a group: a file of JSON lines under the data directory, since RocketMQ cannot
//! take a message out of a topic. A line is appended as soon as the thing is done, so a run that dies goes on where it
//! stopped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::letter::{Letter, LetterId};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// Sent to its group again.
    Replayed,
    /// Taken out of sight.
    Discarded,
    /// Its body was changed; the new one is what a replay sends.
    Edited,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: LetterId,
    /// Tells the letter from another one at the same place, after its topic was made anew.
    stored_ms: i64,
    mark: Mark,
    at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diff: Option<Vec<String>>,
}

struct Known {
    stored_ms: i64,
    mark: Mark,
    body: Option<String>,
}

/// What is known of one group's letters.
pub struct State {
    path: PathBuf,
    known: HashMap<LetterId, Known>,
    file: Option<File>,
}

impl State {
    /// Reads it. A last line that was cut off by a crash is left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(data_dir: &Path, group: &str) -> anyhow::Result<Self> {
        let path = data_dir.join("dlq").join(format!("{}.jsonl", group.replace(['/', '\\'], "_")));
        let mut known = HashMap::new();
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    let line = line.with_context(|| format!("cannot read {}", path.display()))?;
                    let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                    known.insert(line.id, Known { stored_ms: line.stored_ms, mark: line.mark, body: line.body });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        Ok(Self { path, known, file: None })
    }

    /// What was done last with a letter.
    #[must_use]
    pub fn mark(&self, letter: &Letter) -> Option<Mark> {
        self.of(letter).map(|known| known.mark)
    }

    /// The body that an edit gave it.
    #[must_use]
    pub fn edited(&self, letter: &Letter) -> Option<&str> {
        self.of(letter).and_then(|known| known.body.as_deref())
    }

    fn of(&self, letter: &Letter) -> Option<&Known> {
        self.known.get(&letter.id).filter(|known| known.stored_ms == letter.message.stored_ms)
    }

    /// Notes what was done.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(
        &mut self,
        letter: &Letter,
        mark: Mark,
        at_ms: i64,
        edit: Option<(String, Vec<String>)>,
    ) -> anyhow::Result<()> {
        let (body, diff) = edit.unzip();
        let stored_ms = letter.message.stored_ms;
        let line = Line { id: letter.id.clone(), stored_ms, mark, at_ms, body, diff };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let shown = self.path.display().to_string();
        self.file()?.write_all(&text).with_context(|| format!("cannot write {shown}"))?;
        self.known.insert(line.id, Known { stored_ms, mark, body: line.body });
        Ok(())
    }

    /// What was noted outlives the machine from here on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            file.sync_data().with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    fn file(&mut self) -> anyhow::Result<&mut File> {
        if self.file.is_none() {
            if let Some(dir) = self.path.parent() {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            }
            let opened = OpenOptions::new().create(true).append(true).read(true).open(&self.path);
            let mut file = opened.with_context(|| format!("cannot write {}", self.path.display()))?;
            // A line that a crash cut off must not swallow the next one.
            file.write_all(b"\n").with_context(|| format!("cannot write {}", self.path.display()))?;
            self.file = Some(file);
        }
        self.file.as_mut().context("the file is open")
    }
}
