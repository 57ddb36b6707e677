//! `ruyi mq tx`: transaction messages that the broker has given up asking about.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::cmd::audit::open_role;
use crate::cmd::{Context, Usage, WithHelp};
use crate::db::Db;
use crate::domain::event::Role;
use crate::mq::rocketmq::RocketMq;
use crate::mq::runtime::MqRuntime;
use crate::output::Format;
use crate::process;
use crate::roles::payment::stuck::{self, State, Stuck};

/// Half messages read at most.
const LIMIT: usize = 100_000;
/// How long the client's threads may take to end.
const STOP: Duration = Duration::from_secs(5);

/// Transaction messages that the broker has given up asking about
///
/// A broker that is not told how the transaction behind a half message went asks for it, some 15 times. When nobody
/// answered by then it puts the message aside. Which payments are written is read from the payment role's database.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    /// Publish the committed ones, with the same event ids; the others are reported and left
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
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    event_id: &'a str,
    tx_id: &'a str,
    topic: &'a str,
    key: &'a str,
    age_ms: i64,
    state: State,
    resumed_at: Option<i64>,
    group: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done<'a> {
    event_id: &'a str,
    tx_id: &'a str,
    state: State,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `ruyi mq tx ...`.
///
/// # Errors
/// The cluster or the database cannot be read.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let db = open_role(context, Role::Payment).await?;
    let done = with_cluster(context, &db, args.command).await;
    db.close().await;
    done
}

async fn with_cluster(context: &Context, db: &Db, command: Command) -> anyhow::Result<ExitCode> {
    let runtime = MqRuntime::start("ruyi-mq")?;
    let cluster = RocketMq::connect(process::cluster_config(&context.config)?, &runtime).await?;
    let done = run_on(context, db, &cluster, command).await;
    cluster.shutdown().await;
    runtime.shutdown(STOP).await;
    done
}

async fn run_on(context: &Context, db: &Db, cluster: &RocketMq, command: Command) -> anyhow::Result<ExitCode> {
    let halves = cluster
        .stuck_halves(LIMIT)
        .await
        .with_context(|| format!("the cluster at {} cannot be read", cluster.config().namesrv))
        .help("check mq.namesrv, mq.access_key and mq.secret_key, and that a broker runs")?;
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
            resumed_at: stuck.resumed_at,
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
    let go = !args.dry_run && (committed + unknown == 0 || args.yes || asked(&what)?);
    let mut output = context.output();
    let mut failed = false;
    for stuck in &found {
        let done = if go { stuck::resume(db, cluster, stuck).await } else { Ok(stuck.state) };
        let (state, result, error) = match done {
            Ok(State::Committed) => (State::Committed, if go { "published" } else { "would publish" }, None),
            Ok(State::Unknown) => (State::Unknown, "would give up", None),
            Ok(state) => (state, "left", None),
            Err(error) => (stuck.state, "failed", Some(error.to_string())),
        };
        failed |= error.is_some();
        output.row(&Done { event_id: &stuck.half.event_id, tx_id: &stuck.half.tx_id, state, result, error })?;
    }
    if found.is_empty() && context.format() == Format::Table {
        output.text("no half message is stuck\n")?;
    }
    output.finish()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks on a terminal; elsewhere somebody must have said yes.
fn asked(what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Usage(format!("about to {what}: say --yes, or --dry-run to only look")).into());
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "About to {what}. Go on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
