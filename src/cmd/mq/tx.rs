//! `ruyi mq tx`: transaction messages that the broker has given up asking about.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cmd::audit::open_role;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::cluster::{Cluster, Where};
use crate::cmd::{Context, Failed};
use crate::db::Db;
use crate::domain::event::Role;
use crate::mq::rocketmq::RocketMq;
use crate::output::Format;
use crate::roles::payment::stuck::{self, State, Stuck};

/// Half messages read at most.
const LIMIT: usize = 100_000;

/// Transaction messages that the broker has given up asking about
///
/// A broker that is not told how the transaction behind a half message went asks for it, some 15 times. When nobody
/// answered by then it puts the message aside. Which payments are written is read from the payment role's database.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List half messages past the broker's check limit, with what became of their transaction
    #[command(
        after_help = "Example:\n  ruyi mq tx stuck --output json | jq '.items[] | select(.state == \"committed\")'"
    )]
    Stuck(StuckArgs),
    /// Publish the committed ones, with the same event ids; give up undecided attempts, so that none of them can commit
    /// any more; what is rolled back or not ours is reported and left
    #[command(
        after_help = "Examples:\n  ruyi mq tx resume --dry-run\n  ruyi mq tx resume --event 1001:PAYMENT_SUCCESS --yes"
    )]
    Resume(ResumeArgs),
}

#[derive(Debug, clap::Args)]
struct StuckArgs {
    /// Also those that were resumed, and those of other programs
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
struct ResumeArgs {
    /// Only this event; may be repeated
    #[arg(long = "event", value_name = "EVENT_ID")]
    events: Vec<String>,
    #[command(flatten)]
    change: Change,
}

/// A half message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row<'a> {
    /// Id of the event; empty when another program made it.
    event_id: &'a str,
    /// The attempt; empty when another program made it.
    tx_id: &'a str,
    /// Topic as the catalogue names it.
    topic: &'a str,
    /// KEYS.
    key: &'a str,
    /// Since it was made.
    age_ms: i64,
    /// What became of its transaction.
    state: State,
    /// When it was published by hand.
    resumed: Option<String>,
    /// The producer group that was asked.
    group: &'a str,
}

/// What was done about a half message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Done<'a> {
    /// Id of the event.
    event_id: &'a str,
    /// The attempt.
    tx_id: &'a str,
    /// What became of its transaction.
    state: State,
    /// published, left, failed; with --dry-run: would publish, would give up, left.
    result: &'static str,
    /// Why it failed.
    error: Option<String>,
}

/// Runs `ruyi mq tx ...`.
///
/// # Errors
/// The cluster or the database cannot be read.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let db = open_role(context, Role::Payment).await?;
    let done =
        Cluster::with(context, &args.place, async |cluster| run_on(context, &db, cluster, args.command).await).await;
    db.close().await;
    done
}

async fn run_on(context: &Context, db: &Db, cluster: &RocketMq, command: Command) -> anyhow::Result<ExitCode> {
    let halves = cluster.stuck_halves(LIMIT).await.context("the half messages cannot be read")?;
    let found = stuck::judge(db, cluster, halves).await.context("cannot read the database of the payment role")?;
    match command {
        Command::Stuck(args) => list(context, &found, args.all),
        Command::Resume(args) => resume(context, db, cluster, found, &args).await,
    }
}

/// Something is still to be done about it.
fn is_open(stuck: &Stuck) -> bool {
    stuck.state != State::Foreign && stuck.resumed_at.is_none()
}

fn list(context: &Context, found: &[Stuck], all: bool) -> anyhow::Result<ExitCode> {
    let now_ms = context.clock.now_ms();
    let mut output = context.output();
    let mut shown = 0;
    for stuck in found.iter().filter(|stuck| all || is_open(stuck)) {
        shown += 1;
        output.row(&Row {
            event_id: &stuck.half.event_id,
            tx_id: &stuck.half.tx_id,
            topic: &stuck.half.message.topic,
            key: &stuck.half.message.key,
            age_ms: (now_ms - stuck.half.born_ms).max(0),
            state: stuck.state,
            resumed: stuck.resumed_at.map(journal::rfc3339),
            group: &stuck.half.group,
        })?;
    }
    if shown == 0 && context.format() == Format::Table {
        output.text("no half message is stuck\n")?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn resume(
    context: &Context,
    db: &Db,
    cluster: &RocketMq,
    mut found: Vec<Stuck>,
    args: &ResumeArgs,
) -> anyhow::Result<ExitCode> {
    found.retain(|stuck| is_open(stuck) && (args.events.is_empty() || args.events.contains(&stuck.half.event_id)));
    let committed = found.iter().filter(|stuck| stuck.state == State::Committed).count();
    let unknown = found.iter().filter(|stuck| stuck.state == State::Unknown).count();
    let what = format!("publish {committed} committed events, and give up {unknown} undecided attempts");
    let go = committed + unknown > 0 && args.change.approved(&what)?;
    if go {
        journal::record(
            context,
            "mq tx resume",
            args.change.reason.as_deref(),
            &found.iter().map(|stuck| &stuck.half.event_id).collect::<Vec<_>>(),
        )?;
    }
    let mut output = context.output();
    let mut failed = Failed::default();
    for event in args.events.iter().filter(|event| !found.iter().any(|stuck| stuck.half.event_id == **event)) {
        failed.note(event, "no half message of this event is stuck")?;
    }
    for stuck in &found {
        let done = if go { stuck::resume(db, cluster, stuck).await } else { Ok(stuck.state) };
        let (state, result, error) = match done {
            Ok(State::Committed) => (State::Committed, if go { "published" } else { "would publish" }, None),
            Ok(State::Unknown) => (State::Unknown, "would give up", None),
            Ok(state) => (state, "left", None),
            Err(error) => (stuck.state, "failed", Some(error.to_string())),
        };
        if let Some(error) = &error {
            failed.note(&stuck.half.event_id, error)?;
        }
        output.row(&Done { event_id: &stuck.half.event_id, tx_id: &stuck.half.tx_id, state, result, error })?;
    }
    if found.is_empty() && context.format() == Format::Table {
        output.text("no half message is stuck\n")?;
    }
    output.finish()?;
    Ok(failed.code())
}
