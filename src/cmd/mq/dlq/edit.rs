//! Changing the body that a replay sends. The letter itself stays as it is; what somebody writes in an editor lies in a
//! draft from the first moment, and stays there until it is stored.

mod json;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::letter::{Letter, LetterId};
use super::read::one;
use super::state::{self, Edit, Mark, State};
use crate::cmd::confirm::Change;
use crate::cmd::mq::file_name;
use crate::cmd::{Context, Usage, WithHelp, journal};
use crate::mq::reader::Reader;
use crate::mq::rocketmq::RocketMq;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Consumer group
    group: String,
    /// The letter, as `browse` prints its id
    id: LetterId,
    /// Replace the whole body by this file, - for standard input: also where the body is no JSON, or no text
    #[arg(long, value_name = "FILE", conflicts_with = "fields")]
    body: Option<PathBuf>,
    /// Store a body that the groups of its event cannot read
    #[arg(long)]
    no_check: bool,
    /// Set a field of the JSON body, without an editor; may be repeated
    #[arg(long = "field", value_name = "PATH=VALUE", value_parser = field)]
    fields: Vec<(String, String)>,
    #[command(flatten)]
    change: Change,
}

fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("write it as PATH=VALUE, lines.0.quantity=3".to_owned()),
    }
}

/// What came of it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Edited {
    #[schema(value_type = String)]
    id: LetterId,
    /// The new body is stored.
    stored: bool,
    diff: Vec<String>,
}

/// What the journal says.
#[derive(Serialize)]
struct What<'a> {
    group: &'a str,
    id: &'a LetterId,
    diff: &'a [String],
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    args.change.askable("edit a dead letter")?;
    let data_dir = &context.config.data_dir;
    let letter = one(mq, &args.group, &args.id).await?;
    let before = args.current(&State::open(data_dir, &args.group)?, &letter)?;
    let by_hand = args.fields.is_empty() && args.body.is_none();
    let draft = by_hand.then(|| Draft::of(data_dir, &args.group, &letter));
    let after = match (&draft, &args.body) {
        (Some(draft), _) => draft.written(&before),
        (None, Some(path)) => text_of(path),
        (None, None) => with_fields(&before, &args.fields),
    };
    let stored = after.and_then(|after| store(context, args, &letter, &before, after));
    let (stored, diff) = match (stored, &draft) {
        (Ok((stored, diff)), Some(draft)) if stored || diff.is_empty() => {
            draft.remove()?;
            (stored, diff)
        }
        (Ok(done), Some(draft)) => {
            writeln!(std::io::stderr(), "not stored; your text is in {}", draft.path.display())?;
            done
        }
        (Ok(done), None) => done,
        (Err(error), Some(draft)) if draft.path.exists() => {
            return Err(error.context(format!("nothing was stored; your text is in {}", draft.path.display())))
                .help("run the same command again to go on with it, or remove the file to begin anew");
        }
        (Err(error), _) => return Err(error),
    };
    context.output().rows([Edited { id: args.id.clone(), stored, diff }])?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// What a replay would send now. Bytes that are no text can only be replaced.
    fn current(&self, state: &State, letter: &Letter) -> anyhow::Result<String> {
        if !state.is_open(letter) {
            let text = anyhow::anyhow!("{} was replayed or discarded already: a change would reach nobody", letter.id);
            return Err(text).help("if it failed again, it lies in the dead letters once more: edit that one");
        }
        if let Some(edited) = state.edited(letter) {
            return Ok(edited.to_owned());
        }
        if let (Some(left), None) = (letter.left_behind(), &self.body) {
            let text = anyhow::anyhow!("the letter has no body: that of its message is at {}", left.place);
            return Err(text).help("a replay sends that; to send another one, replace it whole: --body FILE");
        }
        if let (Some(why), None) = (letter.compressed(), &self.body) {
            let text = anyhow::anyhow!("{why}: it has no text that could be changed");
            return Err(text).help("replace it whole: --body FILE, or --body - for standard input");
        }
        if self.body.is_some() {
            return Ok(String::from_utf8_lossy(&letter.message.body).into_owned());
        }
        String::from_utf8(letter.message.body.to_vec())
            .context("its body is not text")
            .help("replace it whole: --body FILE, or --body - for standard input")
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.with_context(|| format!("cannot read the new body from {}", path.display()))
}

fn with_fields(before: &str, fields: &[(String, String)]) -> anyhow::Result<String> {
    let mut body = before.to_owned();
    for (path, value) in fields {
        body = json::set(&body, path, value).map_err(Usage)?;
    }
    Ok(body)
}

/// Checks the new body, and stores it if that is wanted.
fn store(
    context: &Context,
    args: &Args,
    letter: &Letter,
    before: &str,
    after: String,
) -> anyhow::Result<(bool, Vec<String>)> {
    anyhow::ensure!(!after.is_empty(), "the new body is empty, which RocketMQ cannot carry");
    if let Some(kind) = letter.kind().filter(|_| !args.no_check) {
        Reader::of(&context.config)
            .check(kind, after.as_bytes())
            .map_err(|why| anyhow::anyhow!("the new body is no {}: {why}", kind.name()))
            .help("what its groups cannot read becomes a dead letter again; --no-check stores it all the same")?;
    }
    let diff = json::diff(before, &after);
    if diff.is_empty() || !args.change.approved(&format!("store a new body for {}", args.id))? {
        return Ok((false, diff));
    }
    // Only now, since an editor may be open for hours; so what it began with may be old.
    let mut state = State::lock(&context.config.data_dir, &args.group)?;
    anyhow::ensure!(args.current(&state, letter)? == before, "{} was edited by somebody else meanwhile", args.id);
    let what = What { group: &args.group, id: &args.id, diff: &diff };
    journal::record(context, "mq dlq edit", args.change.reason.as_deref(), &what)?;
    let edit = Edit { body: after, diff: diff.clone() };
    state.note(letter, Mark::Edited, context.clock.now_ms(), Some(edit))?;
    state.sync()?;
    Ok((true, diff))
}

/// The file that somebody writes in.
struct Draft {
    path: PathBuf,
}

impl Draft {
    /// Its name says when the letter was stored as well: another one may lie in its place one day.
    fn of(data_dir: &Path, group: &str, letter: &Letter) -> Self {
        let name = format!("{group}-{}-{}.draft.json", letter.id, letter.message.stored_ms);
        Self { path: state::folder(data_dir).join(file_name(&name).replace(':', "-")) }
    }

    /// The body as somebody leaves it in `$EDITOR`.
    fn written(&self, before: &str) -> anyhow::Result<String> {
        let editor =
            ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|one| !one.is_empty()));
        let editor = editor.ok_or_else(|| Usage("set EDITOR, or change fields with --field PATH=VALUE".to_owned()))?;
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(before).is_ok();
        let shown = self.path.display().to_string();
        if self.path.exists() {
            writeln!(std::io::stderr(), "going on with the text that was left in {shown}")?;
        } else {
            let text = if is_json { json::pretty(before) } else { before.to_owned() };
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            std::fs::write(&self.path, text).with_context(|| format!("cannot write {shown}"))?;
        }
        let mut words = editor.split_whitespace();
        let program = words.next().unwrap_or("vi");
        let status = Command::new(program).args(words).arg(&self.path).status();
        let status = status
            .with_context(|| format!("cannot start {editor}"))
            .help("EDITOR names a program, with its arguments if it needs some")?;
        anyhow::ensure!(status.success(), "{editor} ended with {status}");
        let text = std::fs::read_to_string(&self.path).with_context(|| format!("cannot read {shown}"))?;
        if !is_json {
            return Ok(text);
        }
        serde_json::from_str::<serde::de::IgnoredAny>(&text).context("it is not JSON any more")?;
        // As it came, if only blanks differ; else on one line.
        let same = json::compact(&text) == json::compact(before);
        Ok(if same { before.to_owned() } else { json::compact(&text) })
    }

    fn remove(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}
