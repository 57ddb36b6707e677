//! How far a run is, in a file: after an interruption the same command goes on there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Args;
use crate::cmd::journal::rfc3339;
use crate::cmd::parts::Since;
use crate::cmd::{Context, Usage, WithHelp};

/// For so long after its last step a stopped run is what the same command means, even with times that count from now.
const FRESH_MS: i64 = 10 * 60_000;

/// What there is to do, and what of it is done.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    /// What was asked for.
    asked: String,
    /// What was sent at or after this, epoch ms; 0 with `--ids`.
    pub since_ms: i64,
    /// What was sent before this, epoch ms.
    pub before_ms: i64,
    /// Database → its last row that is due again.
    pub after: BTreeMap<String, i64>,
    /// When it was written, epoch ms; those of earlier versions do not say.
    #[serde(default)]
    saved_ms: i64,
    #[serde(skip)]
    path: PathBuf,
}

impl Progress {
    /// Of an earlier run of the same command that was stopped, or of a new one.
    ///
    /// # Errors
    /// [`Usage`] where it is not clear which of the two is meant, and where nothing lies in the span.
    pub fn open(context: &Context, args: &Args) -> anyhow::Result<Self> {
        let asked = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {}",
            args.since, args.until, args.ids, args.status, args.event, args.key, args.role, args.dead_letters
        );
        let path = context.config.data_dir.join("outbox-redrive.json");
        let now_ms = context.clock.now_ms();
        let stopped = read(&path)?.filter(|before| before.asked == asked);
        match stopped {
            Some(stopped) if !args.anew => stopped.go_on(args, path, now_ms),
            None if args.go_on => {
                let none = Usage("no run of these very arguments was stopped half-way".to_owned());
                Err(none).help("leave --continue out, or say all that the run was started with")
            }
            _ => Self::begin(context, args, asked, path, now_ms),
        }
    }

    fn begin(context: &Context, args: &Args, asked: String, path: PathBuf, now_ms: i64) -> anyhow::Result<Self> {
        // Whoever sent a row may say so a moment later, and would end what is begun here.
        let settled = now_ms - context.config.mq.outbox.lease.ms();
        let before_ms = args.until.map_or(settled, |until| until.at_ms(now_ms).min(settled));
        let since_ms = args.since.map_or(0, |since| since.at_ms(now_ms));
        if since_ms >= before_ms && args.ids.is_empty() {
            return Err(Usage(format!(
                "nothing lies between {} and {}: what was sent less than {} ago is left alone",
                rfc3339(since_ms),
                rfc3339(before_ms),
                context.config.mq.outbox.lease
            ))
            .into());
        }
        Ok(Self { asked, since_ms, before_ms, after: BTreeMap::new(), saved_ms: now_ms, path })
    }

    /// Goes on with the span that the stopped run had, which is not what the same words mean later.
    fn go_on(self, args: &Args, path: PathBuf, now_ms: i64) -> anyhow::Result<Self> {
        let span = self.span();
        let is_fresh = (0..FRESH_MS).contains(&(now_ms - self.saved_ms));
        if !args.go_on && !is_fresh && counts_from_now(args) {
            let when = match self.saved_ms {
                0 => "some time ago".to_owned(),
                saved_ms => format!("at {}", rfc3339(saved_ms)),
            };
            let unclear = Usage(format!(
                "a run of the same command was stopped half-way {when}: it was about {span}, and its times count from now"
            ));
            return Err(unclear).help("--continue does the rest of that run; --anew drops it and counts from now");
        }
        writeln!(std::io::stderr(), "going on where the last run was stopped: {span}")?;
        Ok(Self { path, ..self })
    }

    fn span(&self) -> String {
        let before = rfc3339(self.before_ms);
        match self.since_ms {
            0 => format!("what was sent before {before}"),
            since_ms => format!("what was sent from {} to before {before}", rfc3339(since_ms)),
        }
    }

    /// What it says when it was stopped.
    pub fn how_to_go_on(args: &Args) -> &'static str {
        if counts_from_now(args) {
            "the same command goes on from here, later than 10 minutes from now with --continue"
        } else {
            "the same command goes on from here"
        }
    }

    /// Notes how far it is at `now_ms`.
    pub fn save(&mut self, now_ms: i64) -> anyhow::Result<()> {
        self.saved_ms = now_ms;
        let write = || {
            let fresh = self.path.with_extension("new");
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.path)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Tells of a run with other arguments that was stopped half-way: there is room for one.
    pub fn tell_of_dropped(&self) -> anyhow::Result<()> {
        if let Some(other) = read(&self.path)?.filter(|left| left.asked != self.asked) {
            let span = other.span();
            writeln!(std::io::stderr(), "a run with other arguments was stopped half-way, and is dropped: {span}")?;
        }
        Ok(())
    }

    /// It is through: nothing is left to go on with.
    pub fn end(&self) {
        if read(&self.path).is_ok_and(|left| left.is_some_and(|left| left.asked == self.asked)) {
            // Left behind it would only be gone over once more.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The same words mean another span later. Without an end what is sent ends at mq.outbox.lease ago.
fn counts_from_now(args: &Args) -> bool {
    !matches!((args.since, args.until), (Some(Since::At(_)), Some(Since::At(_))))
}

/// What a run has left; one that cannot be read is none.
fn read(path: &Path) -> anyhow::Result<Option<Progress>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
