//! Client commands on many items: lines in, one result each, in the order of the input, as soon as it is there.

mod input;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Context;
use crate::client::{Api, Reply};
use crate::domain::id::OrderId;
use crate::output::{OutputError, printable};

pub use input::{Item, Line, LineError, from_args, from_file, id_of, object_of};

/// Options that all of these commands have.
#[derive(Clone, Debug, clap::Args)]
pub struct Parallel {
    /// Items in work at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
}

impl Parallel {
    /// Items in work at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.concurrency.into()
    }
}

/// `--dry-run` of the commands that change something.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DryRun {
    /// Print the requests instead of sending them
    #[arg(long)]
    pub dry_run: bool,
}

/// What `--dry-run` prints for one item.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned<'a, B: Serialize> {
    /// HTTP method.
    pub method: &'static str,
    /// Path below the base URL.
    pub path: String,
    /// The `Idempotency-Key`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<&'a str>,
    /// The body.
    pub body: &'a B,
}

impl<B: Serialize> Planned<'_, B> {
    /// As a result of the command.
    ///
    /// # Errors
    /// The body cannot be JSON.
    pub fn row(&self) -> anyhow::Result<Reply> {
        Ok(serde_json::value::to_raw_value(self)?)
    }
}

/// The roles where the configuration says they are.
///
/// # Errors
/// The client cannot be made.
pub fn api(context: &Context) -> anyhow::Result<Api> {
    Ok(Api::new(&context.config.client)?)
}

/// Does `work` for every line, `concurrency` at once. Results go to stdout in the order of the lines; what failed goes
/// to stderr, one line each, and makes the exit code 1 at the end.
///
/// # Errors
/// The output fails, or the input cannot be read any further.
pub async fn run<W, F>(
    context: &Context,
    lines: impl Stream<Item = Item>,
    concurrency: usize,
    work: W,
) -> anyhow::Result<ExitCode>
where
    W: Fn(Line) -> F,
    F: Future<Output = anyhow::Result<Reply>>,
{
    let results = lines
        .map(|item| {
            let started = item.map(|line| (line.number, work(line)));
            async move {
                match started {
                    Ok((number, work)) => (number, work.await),
                    Err(error) => (error.number, Err(error.into())),
                }
            }
        })
        .buffered(concurrency);
    let mut results = std::pin::pin!(results);
    let mut output = context.output();
    let progress = progress();
    let (mut total, mut failed) = (0_u64, 0_u64);
    while let Some((number, result)) = results.next().await {
        total += 1;
        match result {
            Ok(reply) => {
                output.row(&reply)?;
                output.flush()?;
            }
            Err(error) if error.is::<OutputError>() => return Err(error),
            Err(error) => {
                failed += 1;
                complain(&progress, number, &error);
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    output.finish()?;
    if failed > 0 && total > 1 {
        say(&progress, &format!("{failed} of {total} failed"));
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn complain(progress: &ProgressBar, number: u64, error: &anyhow::Error) {
    let mut text = format!("error: item {number}: {}", printable(&format!("{error:#}")));
    if matches!(error.downcast_ref(), Some(crate::client::CallError::Unreachable { .. })) {
        text.push_str(" (is `ruyi serve all` running there? [client] in the configuration says where)");
    }
    say(progress, &text);
}

/// One line to stderr, above the progress bar.
pub(super) fn say(progress: &ProgressBar, text: &str) {
    // Nothing can be done when stderr is gone.
    progress.suspend(|| drop(writeln!(std::io::stderr(), "{text}")));
}

/// A counter on stderr, if people are looking there, and not at the results themselves.
fn progress() -> ProgressBar {
    if std::io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    counter()
}

/// A counter on stderr, if people are looking there.
pub(super) fn counter() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} done, {per_sec}, {elapsed}");
    let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// `work` for every order named in `ids`: on the command line, or on stdin with `-`.
///
/// # Errors
/// As [`run`].
pub async fn orders<W, F>(context: &Context, ids: &[String], args: &Parallel, work: W) -> anyhow::Result<ExitCode>
where
    W: Fn(OrderId) -> F,
    F: Future<Output = anyhow::Result<Reply>>,
{
    run(context, from_args(ids)?, args.concurrency(), |line| {
        let work = id_of(&line.text).map(&work);
        async move { work?.await }
    })
    .await
}
