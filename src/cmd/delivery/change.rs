//! Making calls once more, and taking them back.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::Which;
use crate::cmd::confirm::Change;
use crate::cmd::pace::Pace;
use crate::cmd::parts::{Newest, Part, close, open};
use crate::cmd::{Context, Failed, Usage, journal};
use crate::db::delivery::Status;
use crate::db::delivery::log::{self, Logged};
use crate::delivery::{Providers, cancel, resend};
use crate::process;
use crate::shutdown::Shutdown;

/// Calls of one transaction at most.
const BATCH: u32 = 64;

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Made once more.
    Resend,
    /// Taken back.
    Cancel,
}

impl What {
    fn command(self) -> &'static str {
        match self {
            Self::Resend => "delivery resend",
            Self::Cancel => "delivery cancel",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Resend => "make calls once more",
            Self::Cancel => "take calls back",
        }
    }

    /// Whether a filter that names no state means these.
    fn concerns(self, status: Status) -> bool {
        match self {
            Self::Resend => !matches!(status, Status::Pending | Status::Done),
            Self::Cancel => status == Status::Pending,
        }
    }

    /// Why such a call is not changed.
    fn refuses(self, call: &Logged) -> Option<String> {
        match self {
            Self::Resend if !log::may_resend(call.kind, call.status) => {
                Some("this refund has failed: ask for it anew, or see `ruyi audit --repair`".to_owned())
            }
            Self::Cancel if call.kind.is_refund() => {
                Some("a refund is not taken back: it may be paid already".to_owned())
            }
            Self::Cancel if call.status != Status::Pending => {
                Some(format!("is {}: nothing is left to take back", call.status.name()))
            }
            _ => None,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// These calls, wherever they stand
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    #[command(flatten)]
    which: Which,
    /// So many at most, the newest
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// So many a second at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    rps: u32,
    #[command(flatten)]
    change: Change,
}

/// A call that is changed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Changed {
    /// The call.
    id: String,
    /// What for.
    kind: &'static str,
    /// Idempotency key.
    reference: String,
    /// Where it stood.
    was: &'static str,
    /// It is changed; false with --dry-run, and where it was settled meanwhile.
    done: bool,
    /// The roles whose database this is.
    roles: String,
}

/// A database and what is to be changed in it.
struct Task<'a> {
    part: &'a Part,
    ids: Vec<i64>,
    rows: Vec<Changed>,
}

pub(super) async fn run(context: &Context, args: &Args, what: What) -> anyhow::Result<ExitCode> {
    if args.ids.is_empty() != args.which.is_any() {
        return Err(
            Usage("name calls, or say which by --kind, --state, --target, --since or --order".to_owned()).into()
        );
    }
    args.change.askable(what.verb())?;
    let parts = open(context, args.which.role).await?;
    let done = change(context, args, what, &parts).await;
    close(&parts).await;
    done
}

async fn change(context: &Context, args: &Args, what: What, parts: &[Part]) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    let mut tasks = plan(context, args, what, parts, &mut failed).await?;
    let count: usize = tasks.iter().map(|task| task.ids.len()).sum();
    if count == 0 {
        writeln!(std::io::stderr(), "there is no such call to change")?;
    }
    let mut stopped = false;
    if count > 0 && args.change.approved(&format!("{}: {count}", what.verb()))? {
        let ids: Vec<String> = tasks.iter().flat_map(|task| &task.ids).map(ToString::to_string).collect();
        journal::record(context, what.command(), args.change.reason.as_deref(), &serde_json::json!({ "ids": ids }))?;
        stopped = !all(context, args, what, &mut tasks).await?;
        if stopped {
            writeln!(std::io::stderr(), "stopped half-way: what says done has been changed")?;
        }
    }
    context.output().rows(tasks.into_iter().flat_map(|task| task.rows))?;
    Ok(if stopped { ExitCode::FAILURE } else { failed.code() })
}

async fn plan<'a>(
    context: &Context,
    args: &Args,
    what: What,
    parts: &'a [Part],
    failed: &mut Failed,
) -> anyhow::Result<Vec<Task<'a>>> {
    let mut tasks: Vec<Task<'a>> = parts.iter().map(|part| Task { part, ids: Vec::new(), rows: Vec::new() }).collect();
    let mut add = |index: usize, call: &Logged| {
        if let Some(task) = tasks.get_mut(index) {
            task.ids.push(call.id);
            task.rows.push(Changed {
                id: call.id.to_string(),
                kind: call.kind.name(),
                reference: call.reference.clone(),
                was: call.status.name(),
                done: false,
                roles: task.part.roles.clone(),
            });
        }
    };
    if args.ids.is_empty() {
        let filter = args.which.filter(context.clock.now_ms(), &Providers::of(&context.config));
        let any_status = filter.status.is_none();
        let mut newest: Newest<'_, Logged> = Newest::new(parts, filter, i64::MAX);
        let mut left = args.limit;
        while let Some((index, call)) = newest.next().await? {
            let concerned = !any_status || what.concerns(call.status);
            if concerned && what.refuses(&call).is_none() {
                if left == 0 {
                    writeln!(std::io::stderr(), "there are more than {}: the same command goes on", args.limit)?;
                    break;
                }
                left -= 1;
                add(index, &call);
            }
        }
        return Ok(tasks);
    }
    let mut unknown: BTreeSet<i64> = args.ids.iter().copied().collect();
    for (index, part) in parts.iter().enumerate() {
        let read = async {
            let mut conn = part.db.read().await?;
            log::of_ids(&mut conn, args.ids.clone()).await
        };
        for call in read.await.with_context(|| format!("cannot read {}", part.shown))? {
            unknown.remove(&call.id);
            if let Some(why) = what.refuses(&call) {
                failed.note(&call.id.to_string(), &why)?;
            } else {
                add(index, &call);
            }
        }
    }
    for id in unknown {
        failed.note(&id.to_string(), "there is no such call")?;
    }
    Ok(tasks)
}

/// Batch by batch; false when it was told to stop.
async fn all(context: &Context, args: &Args, what: What, tasks: &mut [Task<'_>]) -> anyhow::Result<bool> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let mut pace = Pace::new(args.rps);
    let size = usize::try_from(args.rps.clamp(1, BATCH)).unwrap_or(1);
    let why = args.change.reason.as_deref().unwrap_or("by hand");
    for task in tasks {
        for batch in std::mem::take(&mut task.ids).chunks(size) {
            if shutdown.token.is_cancelled() {
                return Ok(false);
            }
            let changed = match what {
                What::Resend => resend(&task.part.db, batch.to_vec()).await,
                What::Cancel => cancel(&task.part.db, batch.to_vec(), why, process::effects(&context.config)).await,
            };
            let changed = changed.with_context(|| format!("cannot write {}", task.part.shown))?;
            let changed: BTreeSet<String> = changed.iter().map(ToString::to_string).collect();
            task.rows.iter_mut().filter(|row| changed.contains(&row.id)).for_each(|row| row.done = true);
            tokio::select! {
                () = shutdown.token.cancelled() => {}
                () = pace.wait(batch.len()) => {}
            }
        }
    }
    Ok(true)
}
