//! CSV files on their way to a role: read line by line, sent some hundred lines at a time, each part all or nothing. What
//! is so already is not changed, so a file that was sent half-way, or twice, is sent again without harm.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use encoding_rs::UTF_8;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::csv_file::{Record, RecordError, Records};
use super::{Context, bulk, csv_file};
use crate::client::{CallError, Reply};
use crate::output::printable;

/// Lines of one request.
const AT_ONCE: usize = 200;

/// `--dry-run` of an import.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct DryRun {
    /// Read and check all lines, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A line of a file.
pub(super) trait Row: Serialize + Sized {
    /// Columns that there have to be.
    const COLUMNS: &'static [&'static str];
    /// Columns that there may be.
    const OPTIONAL: &'static [&'static str];

    /// From its fields; one that is empty is none.
    fn read(field: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self>;

    /// What may stand in the file once.
    fn key(&self) -> &str;
}

/// What became of a file.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// Lines that were read.
    lines: u64,
    /// New, or written anew; with --dry-run those that would be sent.
    changed: u64,
    /// So before.
    unchanged: u64,
    /// Not written; stderr says which, and why.
    failed: u64,
    /// Nothing was sent.
    dry_run: bool,
}

#[derive(Deserialize)]
struct Written {
    changed: u64,
    unchanged: u64,
}

/// Sends the lines of a file; `-` is stdin.
///
/// # Errors
/// The file cannot be read, its head is wrong, or nobody answers; what was sent until then is written.
pub(super) async fn run<R: Row, S>(context: &Context, path: &Path, dry_run: bool, send: S) -> anyhow::Result<ExitCode>
where
    S: AsyncFn(&[R]) -> anyhow::Result<Reply>,
{
    let mut records = Records::new(csv_file::open(path)?);
    let head = records.next().context("the file is empty: its first line has to name the columns")?;
    let head = head.with_context(|| format!("the head of {} cannot be read", path.display()))?;
    let places = places::<R>(&head.texts(UTF_8).context("the head of the file is not UTF-8")?)?;

    let progress = bulk::counter();
    let complain = |line: u64, why: &str| bulk::say(&progress, &format!("error: line {line}: {}", printable(why)));
    let mut summary = Summary { dry_run, ..Summary::default() };
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut part: Vec<(u64, R)> = Vec::with_capacity(AT_ONCE);
    for record in records {
        let (line, row) = match record {
            Ok(record) => (record.line, read::<R>(&record, &places)),
            Err(RecordError::Broken { line, why }) => (line, Err(anyhow::anyhow!(why))),
            Err(error @ (RecordError::Endless { .. } | RecordError::Input(_))) => {
                return Err(error).with_context(|| format!("{} is not read any further", path.display()));
            }
        };
        summary.lines += 1;
        let row = row.and_then(|row| match seen.insert(row.key().to_owned(), line) {
            Some(first) => Err(anyhow::anyhow!("{} stands in line {first} already", row.key())),
            None => Ok(row),
        });
        match row {
            Ok(row) => part.push((line, row)),
            Err(error) => {
                summary.failed += 1;
                complain(line, &format!("{error:#}"));
            }
        }
        if part.len() == AT_ONCE {
            deliver(std::mem::take(&mut part), &mut summary, &send, &complain).await?;
        }
        progress.inc(1);
    }
    deliver(part, &mut summary, &send, &complain).await?;
    progress.finish_and_clear();
    let failed = summary.failed > 0;
    context.output().rows([summary])?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where each column stands.
fn places<R: Row>(head: &[String]) -> anyhow::Result<HashMap<String, usize>> {
    let mut places = HashMap::new();
    for (place, name) in head.iter().enumerate() {
        let name = name.to_ascii_lowercase();
        let known = R::COLUMNS.iter().chain(R::OPTIONAL).any(|column| *column == name);
        anyhow::ensure!(
            known,
            "there is no column {name:?}: {} are known",
            [R::COLUMNS, R::OPTIONAL].concat().join(", ")
        );
        anyhow::ensure!(places.insert(name.clone(), place).is_none(), "the column {name} stands there twice");
    }
    if let Some(missing) = R::COLUMNS.iter().find(|column| !places.contains_key(**column)) {
        anyhow::bail!("the first line has to name the columns, and {missing} is not among them");
    }
    Ok(places)
}

fn read<R: Row>(record: &Record, places: &HashMap<String, usize>) -> anyhow::Result<R> {
    anyhow::ensure!(record.len() == places.len(), "{} fields, the first line names {}", record.len(), places.len());
    let fields = record.texts(UTF_8).context("it is not UTF-8")?;
    R::read(|column| fields.get(*places.get(column)?).filter(|text| !text.is_empty()).cloned())
}

/// Sends lines; those that the role refuses are found by halving.
async fn deliver<R: Row, S>(
    lines: Vec<(u64, R)>,
    summary: &mut Summary,
    send: &S,
    complain: &impl Fn(u64, &str),
) -> anyhow::Result<()>
where
    S: AsyncFn(&[R]) -> anyhow::Result<Reply>,
{
    if summary.dry_run {
        summary.changed += lines.len() as u64;
        return Ok(());
    }
    let mut todo = vec![lines];
    while let Some(mut lines) = todo.pop() {
        if lines.is_empty() {
            continue;
        }
        let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
        let rows: Vec<R> = lines.drain(..).map(|(_, row)| row).collect();
        let error = match send(&rows).await {
            Ok(reply) => {
                let written: Written = serde_json::from_str(reply.get())?;
                summary.changed += written.changed;
                summary.unchanged += written.unchanged;
                continue;
            }
            Err(error) => error,
        };
        let refused =
            |problem: &CallError| matches!(problem.status().map(|code| code.as_u16()), Some(400 | 409 | 413 | 422));
        if !error.downcast_ref().is_some_and(refused) {
            let first = numbers.first().copied().unwrap_or(0);
            return Err(error.context(format!("line {first} and those after it were not sent: send the file again")));
        }
        if let [number] = numbers[..] {
            summary.failed += 1;
            complain(number, &format!("{error:#}"));
            continue;
        }
        let mut first: Vec<(u64, R)> = numbers.into_iter().zip(rows).collect();
        let second = first.split_off(first.len() / 2);
        todo.push(second);
        todo.push(first);
    }
    Ok(())
}
