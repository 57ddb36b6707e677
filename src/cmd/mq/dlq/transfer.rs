//! Dead letters out of a cluster and into one, byte for byte.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::filter::Chosen;
use super::letter::{BORN, LetterId, topic_of};
use super::pace::{self, Pace, Rate};
use super::read::Reader;
use super::state::{self, State};
use crate::cmd::confirm::Change;
use crate::cmd::journal::rfc3339;
use crate::cmd::{Context, Failed, WithHelp, journal};
use crate::mq::message::{COMPRESSED, Delay, Outgoing};
use crate::mq::rocketmq::RocketMq;
use crate::output::{Format, Output};

/// A longer line is refused. The largest message is 4 MiB, and a character of it takes six bytes at most.
const LINE_MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Also those that were discarded or replayed
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) chosen: Chosen,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// File that `export` wrote; - is stdin
    file: PathBuf,
    /// Also letters that an earlier run with the same file has put there
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    change: Change,
}

/// A letter in a file. Exactly one of `body` (UTF-8) and `bodyHex` is there.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::cmd) struct Exported {
    group: String,
    #[schema(value_type = String)]
    id: LetterId,
    tag: String,
    key: String,
    /// Name and value of each, RocketMQ's own as well.
    properties: Vec<(String, String)>,
    born_ms: i64,
    stored_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

/// What came of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(in crate::cmd) struct Imported {
    read: u64,
    /// Put there by an earlier run with the same file.
    already: u64,
    sent: u64,
    failed: u64,
}

/// What the journal says.
#[derive(Serialize)]
struct What<'a> {
    file: &'a Path,
    sha256: String,
    letters: u64,
}

/// Always JSON lines: a file that `import` reads.
pub(super) async fn export(context: &Context, mq: &RocketMq, args: &Export) -> anyhow::Result<ExitCode> {
    let chosen = &args.chosen;
    let state = State::open(&context.config.data_dir, &chosen.group)?;
    let mut reader = Reader::new(mq, &chosen.group, &chosen.span(mq).await?).await?;
    let mut named = chosen.named();
    let now_ms = context.clock.now_ms();
    let mut output = Output::stdout(Format::Jsonl);
    while let Some(letter) = reader.next().await? {
        named.found(&letter);
        if !chosen.filter.takes(&letter, now_ms) || !(args.all || state.is_open(&letter)) {
            continue;
        }
        let (born_ms, compressed) = (letter.born_ms(), letter.compressed().map(str::to_owned));
        let mut message = letter.message;
        // It says what `bornMs` says.
        message.properties.retain(|(name, _)| name != BORN && name != COMPRESSED);
        // A broker's sign of compression does not travel with the bytes.
        message.properties.extend(compressed.map(|why| (COMPRESSED.to_owned(), why)));
        let (body, body_hex) = match String::from_utf8(message.body.to_vec()) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(hex::encode(error.as_bytes()))),
        };
        output.row(&Exported {
            group: chosen.group.clone(),
            id: letter.id,
            tag: message.tag,
            key: message.key,
            properties: message.properties,
            born_ms,
            stored_ms: message.stored_ms,
            body,
            body_hex,
        })?;
    }
    output.finish()?;
    named.none_missing()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn import(context: &Context, mq: &RocketMq, args: &Import) -> anyhow::Result<ExitCode> {
    let mut source = Source::open(&args.file, &context.config.data_dir)?;
    // All lines are checked before the first one is sent.
    let mut summary = Imported::default();
    while source.next()?.is_some() {
        summary.read += 1;
    }
    let sha256 = source.rewind()?;
    let mut failed = Failed::default();
    let data_dir = &context.config.data_dir;
    // Told before anything is asked: what an earlier run has put there may have been replayed since, and be missed now.
    if let Some((letters, last_ms)) = Progress::earlier(data_dir, &sha256)?.filter(|_| !args.again) {
        let text = "were put there by an earlier run with this file";
        let last = rfc3339(last_ms);
        writeln!(
            std::io::stderr(),
            "{letters} of {} {text}, the last one at {last}; --again puts them there once more",
            summary.read
        )?;
        summary.already = if args.change.dry_run { letters } else { 0 };
    }
    let what = format!("put {} dead letters into the dead letter topics of their groups", summary.read);
    if summary.read > 0 && args.change.approved(&what)? {
        let what = What { file: &args.file, sha256: sha256.clone(), letters: summary.read };
        let mut progress = Progress::open(data_dir, &sha256)?;
        if args.again {
            progress.begin_anew()?;
        }
        journal::record(context, "mq dlq import", args.change.reason.as_deref(), &what)?;
        send(mq, args.rate, &mut source, &mut progress, &mut summary, &mut failed).await?;
    }
    context.output().rows([summary])?;
    Ok(failed.code())
}

async fn send(
    mq: &RocketMq,
    rate: Rate,
    source: &mut Source,
    progress: &mut Progress,
    summary: &mut Imported,
    failed: &mut Failed,
) -> anyhow::Result<()> {
    let mut pace = Pace::new(rate, std::time::Duration::ZERO);
    loop {
        let size = pace.round().await;
        let (mut lines, mut messages) = (Vec::new(), Vec::new());
        while messages.len() < size
            && let Some((line, message)) = source.next()?
        {
            if progress.known.contains(&line) {
                summary.already += 1;
            } else {
                lines.push(line);
                messages.push(message);
            }
        }
        if messages.is_empty() {
            return Ok(());
        }
        let mut sends = std::pin::pin!(pace::send(mq, &messages, true));
        while let Some(results) = sends.next().await {
            for (index, result) in results {
                match result {
                    Ok(()) => {
                        progress.note(lines[index])?;
                        summary.sent += 1;
                    }
                    Err(error) => {
                        summary.failed += 1;
                        failed.note(&format!("line {}", lines[index]), &error)?;
                    }
                }
            }
        }
    }
}

/// Lines of a file, read twice: stdin is copied to a temporary one for that.
struct Source {
    shown: String,
    reader: BufReader<File>,
    line: u64,
    digest: Sha256,
}

impl Source {
    fn open(path: &Path, data_dir: &Path) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let file = if path.as_os_str() == "-" {
            let folder = state::folder(data_dir);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let mut copy = tempfile::tempfile_in(&folder)?;
            std::io::copy(&mut std::io::stdin().lock(), &mut copy).context("cannot read stdin")?;
            copy.rewind()?;
            copy
        } else {
            File::open(path).with_context(|| format!("cannot read {shown}"))?
        };
        Ok(Self { shown, reader: BufReader::new(file), line: 0, digest: Sha256::new() })
    }

    /// The next letter and its line, from 1.
    fn next(&mut self) -> anyhow::Result<Option<(u64, Outgoing)>> {
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            let (shown, line) = (&self.shown, self.line);
            let mut limited = self.reader.by_ref().take(LINE_MAX_BYTES);
            let read = limited.read_line(&mut text).with_context(|| format!("cannot read line {line} of {shown}"));
            if read? == 0 {
                return Ok(None);
            }
            if limited.limit() == 0 && !text.ends_with('\n') {
                let long: anyhow::Result<()> = Err(anyhow::anyhow!(
                    "line {line} of {shown} is longer than 64 MiB: it is no dead letter; nothing was sent"
                ));
                long.help("`ruyi mq dlq export` writes a line for each letter")?;
            }
            self.digest.update(&text);
            if text.trim().is_empty() {
                continue;
            }
            let parsed = serde_json::from_str(&text).map_err(anyhow::Error::from).and_then(outgoing);
            let parsed = parsed.with_context(|| format!("line {line} of {shown} is no dead letter; nothing was sent"));
            return Ok(Some((line, parsed.help("`ruyi mq dlq export` writes such lines")?)));
        }
    }

    /// Back to the beginning; the digest of what was read.
    fn rewind(&mut self) -> anyhow::Result<String> {
        self.reader.rewind()?;
        self.line = 0;
        Ok(hex::encode(std::mem::take(&mut self.digest).finalize()))
    }
}

fn outgoing(letter: Exported) -> anyhow::Result<Outgoing> {
    let body = match (letter.body, letter.body_hex) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(digits)) => hex::decode(digits).context("bodyHex is not hexadecimal")?,
        _ => anyhow::bail!("exactly one of body and bodyHex must be there"),
    };
    let mut properties = letter.properties;
    properties.retain(|(name, _)| name != BORN);
    // A letter is as old as its message, not as its copy.
    properties.push((BORN.to_owned(), letter.born_ms.to_string()));
    let topic = topic_of(&letter.group);
    Ok(Outgoing { topic, tag: letter.tag, key: letter.key, body: body.into(), properties, delay: Delay::None })
}

/// The numbers in a file of progress; one that was cut off by a crash has no end.
fn lines_of(text: &[u8]) -> HashSet<u64> {
    let whole = text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b";"));
    whole.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect()
}

/// The lines of a file that are in the cluster already, for a run that goes on after another one died, or that is
/// repeated by mistake.
struct Progress {
    path: PathBuf,
    file: File,
    known: HashSet<u64>,
}

impl Progress {
    fn path(data_dir: &Path, sha256: &str) -> PathBuf {
        state::folder(data_dir).join(format!("import-{}.lines", sha256.get(..16).unwrap_or(sha256)))
    }

    /// How many letters earlier runs with this file have put there, and when the last of these runs was, epoch ms; none
    /// where there are none.
    fn earlier(data_dir: &Path, sha256: &str) -> anyhow::Result<Option<(u64, i64)>> {
        let path = Self::path(data_dir, sha256);
        let read = || -> std::io::Result<_> { Ok((std::fs::read(&path)?, std::fs::metadata(&path)?.modified()?)) };
        let (text, last) = match read() {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let letters = lines_of(&text).len() as u64;
        let last_ms = last.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Ok((letters > 0).then(|| (letters, i64::try_from(last_ms).unwrap_or(0))))
    }

    fn open(data_dir: &Path, sha256: &str) -> anyhow::Result<Self> {
        let folder = state::folder(data_dir);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = Self::path(data_dir, sha256);
        let shown = path.display().to_string();
        let open = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let mut file = open.with_context(|| format!("cannot write {shown}"))?;
        file.try_lock().with_context(|| format!("another ruyi imports the same file ({shown} is locked)"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("cannot read {shown}"))?;
        let known = lines_of(&text);
        file.write_all(b"\n").with_context(|| format!("cannot write {shown}"))?;
        Ok(Self { path, file, known })
    }

    fn note(&mut self, line: u64) -> anyhow::Result<()> {
        let text = format!("{line};\n");
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn begin_anew(&mut self) -> anyhow::Result<()> {
        self.known.clear();
        self.file.set_len(0).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut endless = Source::open(Path::new("/dev/zero"), folder.path()).unwrap();
        let error = endless.next().unwrap_err();
        assert!(format!("{error:#}").starts_with("line 1 of /dev/zero is longer than 64 MiB"), "{error:#}");
    }
}
