//! What was done with the dead letters of a group: a file of JSON lines under the data directory, since RocketMQ cannot
//! take a message out of a topic. A line is appended as soon as the thing is done, so a run that dies goes on where it
//! stopped. Who writes holds a lock, which ends with the process.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::letter::{Letter, LetterId};
use super::read::Place;
use crate::cmd::WithHelp;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) enum Mark {
    /// Sent to its group again.
    Replayed,
    /// Taken out of sight.
    Discarded,
    /// Its body was changed; the new one is what a replay sends.
    Edited,
}

/// A body that was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edit {
    /// What it is now.
    pub body: String,
    /// What changed, line by line.
    pub diff: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: LetterId,
    /// Tells the letter from another one at the same place, after its topic was made anew.
    stored_ms: i64,
    mark: Mark,
    at_ms: i64,
    #[serde(flatten)]
    edit: Option<Edit>,
}

struct Known {
    stored_ms: i64,
    mark: Mark,
    /// The body of the last edit, whatever was done after it.
    body: Option<Box<str>>,
}

/// What is known of one group's letters.
pub struct State {
    path: PathBuf,
    known: BTreeMap<Place, HashMap<i64, Known>>,
    file: Option<File>,
    lock: Option<File>,
}

/// The folder of what is kept about dead letters.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("dlq")
}

impl State {
    /// Reads it. A line that was cut off by a crash is left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(data_dir: &Path, group: &str) -> anyhow::Result<Self> {
        let path = folder(data_dir).join(format!("{}.jsonl", crate::cmd::mq::file_name(group)));
        let mut state = Self { path, known: BTreeMap::new(), file: None, lock: None };
        let shown = state.path.display().to_string();
        match File::open(&state.path) {
            Ok(file) => {
                for line in BufReader::new(file).split(b'\n') {
                    let line = line.with_context(|| format!("cannot read {shown}"))?;
                    let Ok(line) = serde_json::from_slice::<Line>(&line) else { continue };
                    state.learn(&line.id, line.stored_ms, line.mark, line.edit.map(|edit| edit.body));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        }
        Ok(state)
    }

    /// Reads it, to change it: nobody else does until it is dropped.
    ///
    /// # Errors
    /// Another process changes it, or the file cannot be read.
    pub fn lock(data_dir: &Path, group: &str) -> anyhow::Result<Self> {
        let folder = folder(data_dir);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{}.lock", crate::cmd::mq::file_name(group)));
        let shown = path.display().to_string();
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("cannot write {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let busy = anyhow::anyhow!("another ruyi changes the dead letters of {group} ({shown} is locked)");
                return Err(busy).help("wait until it has ended, or end it");
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {shown}")),
        }
        Ok(Self { lock: Some(lock), ..Self::open(data_dir, group)? })
    }

    fn learn(&mut self, id: &LetterId, stored_ms: i64, mark: Mark, body: Option<String>) {
        let queue = self.known.entry((id.broker.clone(), id.queue)).or_default();
        let before = queue.remove(&id.offset).filter(|known| known.stored_ms == stored_ms);
        let body = body.map(String::into_boxed_str).or_else(|| before.and_then(|known| known.body));
        queue.insert(id.offset, Known { stored_ms, mark, body });
    }

    /// What was done last with a letter.
    #[must_use]
    pub fn mark(&self, letter: &Letter) -> Option<Mark> {
        self.of(letter).map(|known| known.mark)
    }

    /// The letter was neither replayed nor discarded.
    #[must_use]
    pub fn is_open(&self, letter: &Letter) -> bool {
        !matches!(self.mark(letter), Some(Mark::Replayed | Mark::Discarded))
    }

    /// The body that an edit gave it.
    #[must_use]
    pub fn edited(&self, letter: &Letter) -> Option<&str> {
        self.of(letter).and_then(|known| known.body.as_deref())
    }

    /// How many letters of a queue were replayed or discarded, of those from `from` to before `to`, of which the first
    /// was stored at `first_ms`. What was stored before that lay there before the topic was made anew.
    #[must_use]
    pub fn closed_in(&self, place: &Place, from: i64, to: i64, first_ms: i64) -> i64 {
        let Some(queue) = self.known.get(place) else { return 0 };
        let inside = queue.iter().filter(|(offset, known)| (from..to).contains(*offset) && known.stored_ms >= first_ms);
        let closed = inside.filter(|(_, known)| known.mark != Mark::Edited).count();
        i64::try_from(closed).unwrap_or(i64::MAX)
    }

    fn of(&self, letter: &Letter) -> Option<&Known> {
        let queue = self.known.get(&(letter.id.broker.clone(), letter.id.queue))?;
        queue.get(&letter.id.offset).filter(|known| known.stored_ms == letter.message.stored_ms)
    }

    /// Notes what was done.
    ///
    /// # Errors
    /// The file cannot be written, or this is only for reading.
    pub fn note(&mut self, letter: &Letter, mark: Mark, at_ms: i64, edit: Option<Edit>) -> anyhow::Result<()> {
        anyhow::ensure!(self.lock.is_some(), "the state of dead letters was opened to be read only");
        let stored_ms = letter.message.stored_ms;
        let line = Line { id: letter.id.clone(), stored_ms, mark, at_ms, edit };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let shown = self.path.display().to_string();
        self.file()?.write_all(&text).with_context(|| format!("cannot write {shown}"))?;
        self.learn(&letter.id, stored_ms, mark, line.edit.map(|edit| edit.body));
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
            let opened = OpenOptions::new().create(true).append(true).open(&self.path);
            let mut file = opened.with_context(|| format!("cannot write {}", self.path.display()))?;
            // A line that a crash cut off must not swallow the next one.
            file.write_all(b"\n").with_context(|| format!("cannot write {}", self.path.display()))?;
            self.file = Some(file);
        }
        self.file.as_mut().context("the file is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::message::QueueId;
    use crate::mq::operate::StoredMessage;

    fn letter(offset: i64, stored_ms: i64) -> Letter {
        let queue = QueueId { topic: "%DLQ%g".to_owned(), broker: "a".to_owned(), queue: 0 };
        let message = StoredMessage {
            queue,
            offset,
            offset_id: String::new(),
            unique_id: String::new(),
            tag: String::new(),
            key: String::new(),
            body: bytes::Bytes::new(),
            unreadable: None,
            properties: vec![],
            born_ms: 0,
            stored_ms,
            reconsumed: 0,
            size: 0,
        };
        Letter { id: format!("a:0:{offset}").parse().unwrap(), message }
    }

    #[test]
    fn what_was_noted_is_known_and_a_torn_line_costs_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let edit = |body: &str| Some(Edit { body: body.to_owned(), diff: vec![] });
        let mut state = State::lock(dir.path(), "g").unwrap();
        state.note(&letter(1, 10), Mark::Edited, 5, edit("new")).unwrap();
        state.note(&letter(1, 10), Mark::Replayed, 6, None).unwrap();
        assert!(State::lock(dir.path(), "g").is_err_and(|error| error.to_string().contains("locked")));
        assert!(State::open(dir.path(), "g").unwrap().note(&letter(2, 10), Mark::Discarded, 7, None).is_err());
        drop(state);
        // Cut off inside a character.
        let path = folder(dir.path()).join("g.jsonl");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"id\":\"a:0:2\",\"body\":\"\xe5\xad");
        std::fs::write(&path, text).unwrap();
        let mut state = State::lock(dir.path(), "g").unwrap();
        assert_eq!(state.mark(&letter(2, 10)), None);
        state.note(&letter(3, 10), Mark::Discarded, 8, None).unwrap();
        let state = State::open(dir.path(), "g").unwrap();
        assert_eq!((state.mark(&letter(1, 10)), state.edited(&letter(1, 10))), (Some(Mark::Replayed), Some("new")));
        assert_eq!(state.mark(&letter(3, 10)), Some(Mark::Discarded));
        // Another letter at the same place.
        assert_eq!((state.mark(&letter(3, 11)), state.is_open(&letter(3, 11))), (None, true));
        let place = ("a".to_owned(), 0);
        assert_eq!((state.closed_in(&place, 2, 4, 10), state.closed_in(&place, 2, 4, 11)), (1, 0));
        assert_eq!((state.closed_in(&place, 1, 4, 5), state.closed_in(&place, 4, 9, 5)), (2, 0));
    }
}
