//! Sending again what was sent.

mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use self::progress::Progress;
use crate::cmd::confirm::Change;
use crate::cmd::journal::{self, rfc3339};
use crate::cmd::pace::Pace;
use crate::cmd::parts::{self, Part, Since};
use crate::cmd::{Context, Failed, WithHelp};
use crate::db::outbox::Status;
use crate::db::outbox::log::{self, Again, Logged, Share};
use crate::domain::event::Role;
use crate::shutdown::Shutdown;

/// Rows of one transaction at most.
const BATCH: u32 = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What was sent, or given up after it was written, since then: 2h, @2024-01-15T08:00
    #[arg(long, value_name = "TIME", required_unless_present = "ids", conflicts_with = "ids")]
    since: Option<Since>,
    /// Up to then [default: mq.outbox.lease ago]
    #[arg(long, value_name = "TIME", conflicts_with = "ids")]
    until: Option<Since>,
    /// These events
    #[arg(long, value_name = "EVENT_ID,...", value_delimiter = ',')]
    ids: Vec<String>,
    /// Only what was sent, or only what was given up (failed)
    #[arg(long, value_name = "STATUS", value_parser = sent_or_failed, conflicts_with = "ids")]
    status: Option<Status>,
    /// Only this event
    #[arg(long, value_name = "EVENT", value_parser = super::event, conflicts_with = "ids")]
    event: Option<String>,
    /// Only of this business key
    #[arg(long, value_name = "KEY", conflicts_with = "ids")]
    key: Option<String>,
    /// Dead letters of that time as well, where they were lost too: they come back as new ones, also those that were
    /// replayed or discarded
    #[arg(long, conflicts_with_all = ["ids", "event"])]
    dead_letters: bool,
    /// Only the database of this role
    #[arg(long, value_name = "ROLE", value_parser = parts::role)]
    role: Option<Role>,
    /// So many a second at most
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    rps: u32,
    /// Do the rest of a run with these arguments that was stopped half-way, with the times that it had
    #[arg(long = "continue", conflicts_with = "anew")]
    go_on: bool,
    /// Drop what a run with these arguments left half-way, and count times from now
    #[arg(long)]
    anew: bool,
    #[command(flatten)]
    change: Change,
}

fn sent_or_failed(text: &str) -> Result<Status, String> {
    match super::list::status(text)? {
        status @ (Status::Sent | Status::Failed) => Ok(status),
        _ => Err("only what was sent or has failed can be sent again: say one of these".to_owned()),
    }
}

/// What is sent again of one event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Redriven {
    /// The roles whose database it is.
    roles: String,
    /// The event, or `%DLQ%<group>`.
    event: String,
    /// Rows.
    rows: i64,
    /// When the oldest of them was written.
    oldest: String,
    /// When the newest of them was written.
    newest: String,
    /// Rows that are due again; 0 with --dry-run.
    done: i64,
}

/// What is to be done in one database.
struct Task<'a> {
    part: &'a Part,
    again: Again,
    /// With --ids: their rows.
    ids: Option<Vec<i64>>,
    rows: Vec<Redriven>,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let open = parts::open(context, args.role).await?;
    let done = redrive(context, args, &open).await;
    parts::close(&open).await;
    done
}

async fn redrive(context: &Context, args: &Args, parts: &[Part]) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::open(context, args)?;
    let mut failed = Failed::default();
    let mut tasks = plan(args, parts, &progress, &mut failed).await?;
    let count: i64 = tasks.iter().flat_map(|task| &task.rows).map(|row| row.rows).sum();
    if count == 0 {
        writeln!(std::io::stderr(), "nothing is to be sent again")?;
        if !args.change.dry_run {
            progress.end();
        }
    }
    let go = count > 0 && args.change.approved(&format!("send {count} events again"))?;
    let mut stopped = false;
    if go {
        record(context, args, &progress, &tasks)?;
        progress.tell_of_dropped()?;
        progress.save(context.clock.now_ms())?;
        stopped = !all(context, args, &mut tasks, &mut progress).await?;
        if stopped {
            writeln!(std::io::stderr(), "stopped half-way: {}", Progress::how_to_go_on(args))?;
        } else {
            progress.end();
        }
    }
    context.output().rows(tasks.into_iter().flat_map(|task| task.rows))?;
    Ok(if stopped { ExitCode::FAILURE } else { failed.code() })
}

/// What there is to do, by event.
async fn plan<'a>(
    args: &Args,
    parts: &'a [Part],
    progress: &Progress,
    failed: &mut Failed,
) -> anyhow::Result<Vec<Task<'a>>> {
    let again = Again {
        since_ms: progress.since_ms,
        before_ms: progress.before_ms,
        status: args.status,
        topic: args.event.clone(),
        key: args.key.clone(),
        // One that is named is meant.
        dead_letters: args.dead_letters || args.event.is_some(),
    };
    let mut unknown: BTreeSet<&str> = args.ids.iter().map(String::as_str).collect();
    let mut tasks = Vec::new();
    for part in parts {
        let again = again.clone();
        let cannot = || format!("cannot read {}", part.shown);
        let mut conn = part.db.read().await.with_context(cannot)?;
        let (ids, shares) = if args.ids.is_empty() {
            (None, log::shares(&mut conn, &again).await.with_context(cannot)?)
        } else {
            let found = log::of_events(&mut conn, args.ids.clone()).await.with_context(cannot)?;
            for row in &found {
                unknown.remove(row.event_id.as_str());
            }
            let due = judge(found, progress.before_ms, failed)?;
            (Some(due.iter().map(|row| row.id).collect()), shares_of(&due))
        };
        let rows = shares.into_iter().map(|share| Redriven {
            roles: part.roles.clone(),
            event: share.topic,
            rows: share.rows,
            oldest: rfc3339(share.oldest_ms),
            newest: rfc3339(share.newest_ms),
            done: 0,
        });
        tasks.push(Task { part, again, ids, rows: rows.collect() });
    }
    for id in unknown {
        failed.note(id, "no outbox has this event (any more)")?;
    }
    Ok(tasks)
}

/// Those of the named rows that can be sent again; the others are told.
fn judge(found: Vec<Logged>, before_ms: i64, failed: &mut Failed) -> anyhow::Result<Vec<Logged>> {
    let mut due = Vec::new();
    for row in found {
        match row.status {
            Status::Failed => due.push(row),
            Status::Sent if row.sent_at.is_none_or(|at| at < before_ms) => due.push(row),
            Status::Sent => failed.note(&row.event_id, "was sent a moment ago: say it again after mq.outbox.lease")?,
            Status::Pending => writeln!(std::io::stderr(), "{}: waits to be sent anyway", row.event_id)?,
            Status::Canceled => failed.note(&row.event_id, "was taken back before it was sent")?,
        }
    }
    Ok(due)
}

fn shares_of(rows: &[Logged]) -> Vec<Share> {
    let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
    for row in rows {
        let at = row.created_at;
        let share = shares.entry(&row.topic).or_insert_with(|| Share {
            topic: row.topic.clone(),
            rows: 0,
            oldest_ms: at,
            newest_ms: at,
        });
        share.rows += 1;
        share.oldest_ms = share.oldest_ms.min(at);
        share.newest_ms = share.newest_ms.max(at);
    }
    shares.into_values().collect()
}

fn record(context: &Context, args: &Args, progress: &Progress, tasks: &[Task<'_>]) -> anyhow::Result<()> {
    let rows: Vec<&Redriven> = tasks.iter().flat_map(|task| &task.rows).collect();
    let what = serde_json::json!({
        "since": rfc3339(progress.since_ms), "before": rfc3339(progress.before_ms), "ids": args.ids, "key": args.key,
        "after": progress.after, "rows": rows,
    });
    journal::record(context, "mq outbox redrive", args.change.reason.as_deref(), &what)
}

/// Batch by batch; false when it was told to stop.
async fn all(context: &Context, args: &Args, tasks: &mut [Task<'_>], progress: &mut Progress) -> anyhow::Result<bool> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let total = tasks.iter().flat_map(|task| &task.rows).map(|row| row.rows).sum::<i64>();
    let bar = crate::cmd::mq::progress(total.unsigned_abs(), "due again");
    let mut pace = Pace::new(args.rps);
    let limit = i64::from(args.rps.clamp(1, BATCH));
    for task in tasks {
        loop {
            let after = progress.after.get(&task.part.shown).copied().unwrap_or(0);
            let batch = next(task, after, limit).await?;
            let Some(last) = batch.last().copied() else { break };
            if shutdown.token.is_cancelled() {
                return Ok(false);
            }
            for (topic, rows) in send_again(task, &batch).await? {
                bar.inc(rows.unsigned_abs());
                if let Some(row) = task.rows.iter_mut().find(|row| row.event == topic) {
                    row.done += rows;
                }
            }
            progress.after.insert(task.part.shown.clone(), last);
            progress.save(context.clock.now_ms())?;
            tokio::select! {
                () = shutdown.token.cancelled() => {}
                () = pace.wait(batch.len()) => {}
            }
        }
    }
    bar.finish_and_clear();
    Ok(true)
}

async fn next(task: &Task<'_>, after: i64, limit: i64) -> anyhow::Result<Vec<i64>> {
    if let Some(ids) = &task.ids {
        let rest = ids.iter().copied().filter(|id| *id > after);
        return Ok(rest.take(usize::try_from(limit).unwrap_or(1)).collect());
    }
    let read = async {
        let mut conn = task.part.db.read().await?;
        log::next_again(&mut conn, &task.again, after, limit).await
    };
    read.await.with_context(|| format!("cannot read {}", task.part.shown))
}

async fn send_again(task: &Task<'_>, batch: &[i64]) -> anyhow::Result<Vec<(String, i64)>> {
    let (ids, before_ms) = (Arc::new(batch.to_vec()), task.again.before_ms);
    let write = task.part.db.write("outbox_again", move |tx| {
        let ids = Arc::clone(&ids);
        Box::pin(async move { log::send_again(tx, &ids, before_ms).await })
    });
    write
        .await
        .with_context(|| format!("cannot write {}", task.part.shown))
        .help("what was done is noted: the same command goes on from there")
}
