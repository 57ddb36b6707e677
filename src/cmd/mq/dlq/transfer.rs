//! Dead letters out of a cluster, into one, changed, or out of sight.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::filter::Chosen;
use super::letter::{LetterId, Reader, Span, one, topic_of};
use super::state::{Mark, State};
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::cluster::Where;
use crate::cmd::{Context, Failed, Usage, WithHelp, body};
use crate::mq::message::{Delay, Outgoing};
use crate::mq::rocketmq::RocketMq;

/// Letters put into a topic together.
const TOGETHER: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Edit {
    /// Consumer group
    group: String,
    /// The letter, as `browse` prints its id
    id: LetterId,
    /// Set a field of the JSON body, without an editor; may be repeated
    #[arg(long = "field", value_name = "PATH=VALUE")]
    fields: Vec<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// File that `export` wrote; - is stdin
    file: PathBuf,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

#[derive(Debug, clap::Args)]
pub(super) struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    change: Change,
}

impl std::ops::Deref for Export {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

impl std::ops::Deref for Discard {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

/// A letter in a file. Exactly one of `body` (UTF-8) and `bodyHex` is there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exported {
    group: String,
    id: LetterId,
    tag: String,
    key: String,
    properties: Vec<(String, String)>,
    born_ms: i64,
    stored_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl Exported {
    fn bytes(self) -> anyhow::Result<(Vec<u8>, Self)> {
        let bytes = match (&self.body, &self.body_hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(digits)) => hex::decode(digits).context("bodyHex is not hexadecimal")?,
            _ => anyhow::bail!("exactly one of body and bodyHex must be there"),
        };
        Ok((bytes, self))
    }
}

pub(super) async fn export(context: &Context, mq: &RocketMq, args: &Export) -> anyhow::Result<ExitCode> {
    let state = State::open(&context.config.data_dir, &args.group)?;
    let span = Span::all(mq, &args.group).await?;
    let mut reader = Reader::new(mq, &args.group, &span).await?;
    let now_ms = context.clock.now_ms();
    let mut output = crate::output::Output::stdout(crate::output::Format::Jsonl);
    while let Some(letter) = reader.next().await? {
        if !args.takes_open(&letter, &state, now_ms) {
            continue;
        }
        let text = String::from_utf8(letter.message.body.to_vec());
        let (body, body_hex) = match text {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(hex::encode(error.as_bytes()))),
        };
        output.row(&Exported {
            group: args.group.clone(),
            id: letter.id,
            tag: letter.message.tag,
            key: letter.message.key,
            properties: letter.message.properties,
            born_ms: letter.message.born_ms,
            stored_ms: letter.message.stored_ms,
            body,
            body_hex,
        })?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn import(context: &Context, mq: &RocketMq, args: &Import) -> anyhow::Result<ExitCode> {
    let letters = read_all(&args.file)?;
    let what = format!("put {} dead letters back", letters.len());
    let mut failed = Failed::default();
    let mut sent = 0_u64;
    if !letters.is_empty() && args.change.approved(&what)? {
        journal::record(context, "mq dlq import", args.change.reason.as_deref(), &(&args.file, letters.len()))?;
        for chunk in letters.chunks(TOGETHER) {
            for (result, number) in mq.publish(chunk).await.into_iter().zip(sent + 1..) {
                match result {
                    Ok(()) => {}
                    Err(error) => failed.note(&format!("letter {number}"), &error)?,
                }
            }
            sent += chunk.len() as u64;
        }
    }
    #[derive(Serialize)]
    struct Summary {
        read: usize,
        tried: u64,
    }
    context.output().rows([Summary { read: letters.len(), tried: sent }])?;
    Ok(failed.code())
}

/// All lines are checked before the first one is sent.
fn read_all(file: &Path) -> anyhow::Result<Vec<Outgoing>> {
    let shown = file.display();
    let source: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(std::io::BufReader::new(std::io::stdin()))
    } else {
        Box::new(std::io::BufReader::new(std::fs::File::open(file).with_context(|| format!("cannot read {shown}"))?))
    };
    let mut letters = Vec::new();
    for (line, number) in source.lines().zip(1..) {
        let line = line.with_context(|| format!("cannot read {shown}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str::<Exported>(&line).map_err(anyhow::Error::from).and_then(Exported::bytes);
        let (body, letter) =
            parsed.with_context(|| format!("line {number} of {shown} is no dead letter; nothing was sent"))?;
        letters.push(Outgoing {
            topic: topic_of(&letter.group),
            tag: letter.tag,
            key: letter.key,
            body: body.into(),
            properties: letter.properties,
            delay: Delay::None,
        });
    }
    Ok(letters)
}

pub(super) async fn discard(context: &Context, mq: &RocketMq, args: &Discard) -> anyhow::Result<ExitCode> {
    if args.change.reason.is_none() && !args.change.dry_run {
        return Err(
            Usage("say why with --reason: a discarded letter is an effect that never happens".to_owned()).into()
        );
    }
    let mut state = State::open(&context.config.data_dir, &args.group)?;
    let span = Span::all(mq, &args.group).await?;
    let now_ms = context.clock.now_ms();
    let count = async |state: &mut State, note: bool| -> anyhow::Result<u64> {
        let mut reader = Reader::new(mq, &args.group, &span).await?;
        let mut count = 0;
        while let Some(letter) = reader.next().await? {
            if args.takes_open(&letter, state, now_ms) {
                count += 1;
                if note {
                    state.note(&letter, Mark::Discarded, now_ms, None)?;
                }
            }
        }
        Ok(count)
    };
    let matched = count(&mut state, false).await?;
    let mut discarded = 0;
    if matched > 0 && args.change.approved(&format!("discard {matched} dead letters of {}", args.group))? {
        let what = (&args.group, format!("{:?}", args.filter), matched);
        journal::record(context, "mq dlq discard", args.change.reason.as_deref(), &what)?;
        discarded = count(&mut state, true).await?;
        state.sync()?;
    }
    #[derive(Serialize)]
    struct Summary {
        matched: u64,
        discarded: u64,
    }
    context.output().rows([Summary { matched, discarded }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn edit(context: &Context, mq: &RocketMq, args: &Edit) -> anyhow::Result<ExitCode> {
    let mut state = State::open(&context.config.data_dir, &args.group)?;
    let letter = one(mq, &args.group, &args.id).await?;
    let before = match state.edited(&letter) {
        Some(edited) => edited.to_owned(),
        None => String::from_utf8(letter.message.body.to_vec())
            .context("its body is not text: export it, change it with a tool of its own, and import it")?,
    };
    let after = if args.fields.is_empty() { in_editor(&before)? } else { with_fields(&before, &args.fields)? };
    if let Some(kind) = letter.kind() {
        body::check(kind, after.as_bytes())
            .map_err(|why| anyhow::anyhow!("the new body is no {}: {why}; nothing was stored", kind.name()))?;
    }
    let diff = lines_changed(&before, &after);
    let changed = !diff.is_empty();
    if changed && args.change.approved(&format!("store a new body for {}", args.id))? {
        journal::record(context, "mq dlq edit", args.change.reason.as_deref(), &(&args.group, &args.id, &diff))?;
        state.note(&letter, Mark::Edited, context.clock.now_ms(), Some((after, diff.clone())))?;
        state.sync()?;
    }
    #[derive(Serialize)]
    struct Edited {
        id: LetterId,
        changed: bool,
        diff: Vec<String>,
    }
    context.output().rows([Edited { id: args.id.clone(), changed, diff }])?;
    Ok(ExitCode::SUCCESS)
}

/// The body with `path=value` set; a value is JSON where it can be, else text.
fn with_fields(before: &str, fields: &[String]) -> anyhow::Result<String> {
    let mut body: Value = serde_json::from_str(before).context("its body is not JSON")?;
    for field in fields {
        let (path, value) =
            field.split_once('=').ok_or_else(|| Usage(format!("{field:?}: write it as PATH=VALUE, a.b.0=3")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        let pointer = format!("/{}", path.replace('~', "~0").replace('/', "~1").replace('.', "/"));
        let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", ""));
        let place = body.pointer_mut(parent).ok_or_else(|| Usage(format!("the body has no {path}")))?;
        let name = name.replace("~1", "/").replace("~0", "~");
        match place {
            Value::Object(map) => {
                map.insert(name, value);
            }
            Value::Array(list) => {
                let slot = name.parse::<usize>().ok().and_then(|index| list.get_mut(index));
                *slot.ok_or_else(|| Usage(format!("the body has no {path}")))? = value;
            }
            _ => return Err(Usage(format!("{path}: its parent is neither an object nor a list")).into()),
        }
    }
    Ok(serde_json::to_string(&body)?)
}

/// The body as the user leaves it in `$EDITOR`. The file stays when something goes wrong, so that no work is lost.
fn in_editor(before: &str) -> anyhow::Result<String> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok()).filter(|e| !e.is_empty());
    let editor = editor.ok_or_else(|| Usage("set EDITOR, or change fields with --field PATH=VALUE".to_owned()))?;
    let json = serde_json::from_str::<Value>(before).ok();
    let pretty = json.as_ref().and_then(|body| serde_json::to_string_pretty(body).ok());
    let mut file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
    file.write_all(pretty.as_deref().unwrap_or(before).as_bytes())?;
    let path = file.into_temp_path();
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program)
        .args(words)
        .arg(&path)
        .status()
        .with_context(|| format!("cannot start {editor}"))
        .help("EDITOR names a program, with its arguments if it needs some")?;
    let read = || -> anyhow::Result<String> {
        anyhow::ensure!(status.success(), "{editor} ended with {status}: nothing was stored");
        let text = std::fs::read_to_string(&path)?;
        match json {
            // Back to one line, as it came.
            Some(_) => {
                Ok(serde_json::to_string(&serde_json::from_str::<Value>(&text).context("it is not JSON any more")?)?)
            }
            None => Ok(text),
        }
    };
    let result = read();
    if result.is_err() {
        let kept = path.keep()?;
        return result.with_context(|| format!("your text is in {}", kept.display()));
    }
    result
}

/// What changed, top-level field by field where both are JSON.
fn lines_changed(before: &str, after: &str) -> Vec<String> {
    let parse = |text: &str| serde_json::from_str::<serde_json::Map<String, Value>>(text).ok();
    let (Some(old), Some(new)) = (parse(before), parse(after)) else {
        return if before == after { vec![] } else { vec![format!("- {before}"), format!("+ {after}")] };
    };
    let mut diff = Vec::new();
    for (name, value) in &old {
        if new.get(name) != Some(value) {
            diff.push(format!("- {name}: {value}"));
            diff.extend(new.get(name).map(|value| format!("+ {name}: {value}")));
        }
    }
    diff.extend(
        new.iter().filter(|(name, _)| !old.contains_key(*name)).map(|(name, value)| format!("+ {name}: {value}")),
    );
    diff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_and_told() {
        let before = r#"{"orderId":"1","lines":[{"sku":"A","quantity":1}],"amount":5}"#;
        let after = with_fields(before, &["lines.0.quantity=3".to_owned(), "note=hi there".to_owned()]).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&after).unwrap(),
            serde_json::json!({"orderId":"1","lines":[{"sku":"A","quantity":3}],"amount":5,"note":"hi there"})
        );
        let diff = lines_changed(before, &after);
        assert_eq!(diff.len(), 3, "{diff:?}");
        assert!(lines_changed(before, before).is_empty());
        for wrong in ["orderId", "a.b=1", "lines.7=1", "orderId.x=1"] {
            assert!(with_fields(before, &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
