//! Sending messages by hand.

use std::io::{BufRead, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::filter::property;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::offsets::{Position, plan};
use crate::cmd::pace::Pace;
use crate::cmd::{Context, Failed, Usage, WithHelp};
use crate::config::Millis;
use crate::domain::event::Kind;
use crate::mq::message::{Delay, DelayLevel, Outgoing};
use crate::mq::reader::Reader;
use crate::mq::rocketmq::{RocketMq, RocketMqConfig, is_reserved_property};
use crate::shutdown::Shutdown;

/// Lines sent together at most.
const TOGETHER: u32 = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic as it is called on the broker
    topic: String,
    /// The body
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "stdin",
        required_unless_present = "stdin",
        allow_hyphen_values = true
    )]
    body: Option<String>,
    /// A body per line of stdin
    #[arg(long)]
    stdin: bool,
    /// TAGS
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// KEYS; messages of one key keep their order
    #[arg(long, value_name = "KEY", default_value = "")]
    key: String,
    /// A user property; may be repeated
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = user_property)]
    properties: Vec<(String, String)>,
    /// Kept back by the broker for one of its levels: 1s 5s 10s 30s 1m..10m 20m 30m 1h 2h
    #[arg(long, value_name = "LEVEL", group = "when")]
    delay: Option<DelayLevel>,
    /// Kept back by the broker's timer for so long (RocketMQ 5)
    #[arg(long, value_name = "DURATION", group = "when")]
    after: Option<Millis>,
    /// Kept back by the broker's timer until this time: @2024-01-15T08:00 (RocketMQ 5)
    #[arg(long, value_name = "TIME", group = "when")]
    at: Option<Position>,
    /// The event that bodies have to be, as its groups read it [default: the one that the topic is for]
    #[arg(long, value_name = "EVENT", value_parser = crate::cmd::mq::kind)]
    event: Option<Kind>,
    /// Send bodies as they are, also those that the event's groups cannot read
    #[arg(long, conflicts_with = "event")]
    no_check: bool,
    /// So many a second at most
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    rps: u32,
    /// Leave out the first lines of stdin: how many were sent before it stopped
    #[arg(long, value_name = "N", default_value = "0", requires = "stdin")]
    skip: u64,
    #[command(flatten)]
    change: Change,
}

/// One that is not RocketMQ's own: the client would leave it out without a word.
fn user_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = property(text)?;
    match name.as_str() {
        "KEYS" => Err("say --key".to_owned()),
        "TAGS" => Err("say --tag".to_owned()),
        "DELAY" | "TIMER_DELIVER_MS" | "TIMER_DELAY_SEC" | "TIMER_DELAY_MS" => {
            Err("say --delay, --after or --at".to_owned())
        }
        name if is_reserved_property(name) => Err(format!("{name} is one that RocketMQ sets itself")),
        _ if value.is_empty() => Err("it has no value, and would not be kept".to_owned()),
        _ => Ok((name, value)),
    }
}

/// What was sent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Sent<'a> {
    /// Topic as it is called on the broker.
    topic: &'a str,
    /// Messages that the broker has stored.
    sent: u64,
    /// With --dry-run: messages that it would be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_send: Option<u64>,
    /// Messages that were refused or got no answer.
    failed: u64,
    /// Where it lies, of a single message without delay: BROKER:QUEUE:OFFSET.
    id: Option<String>,
    /// Id that the client gave it, of a single message.
    unique_id: Option<String>,
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let judge = Judge { event: event_of(mq.config(), args), reader: Reader::of(&context.config) };
    in_namespace(mq.config(), &args.topic)?;
    let delay = delay(args, context.clock.now_ms())?;
    // Stdin is the messages: nobody can be asked there.
    if args.stdin && !args.change.yes && !args.change.dry_run {
        return Err(Usage("with --stdin say --yes, or --dry-run to only look".to_owned()).into());
    }
    if let Some(text) = &args.body {
        judge
            .check(text.as_bytes())
            .map_err(|fault| anyhow::anyhow!("the body is no {}: {fault}", judge.event.map_or("", Kind::name)))
            .help("mend it, or send it as it is with --no-check")?;
    }
    let go = args.change.dry_run || args.change.approved(&format!("send to {}", args.topic))?;
    if !go {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.change.dry_run {
        let (topic, tag, key, properties) = (&args.topic, &args.tag, &args.key, &args.properties);
        let what = json!({
            "topic": topic, "tag": tag, "key": key, "properties": properties, "body": args.body, "stdin": args.stdin,
        });
        journal::record(context, "mq messages send", args.change.reason.as_deref(), &what)?;
    }
    let mut summary = Sent { topic: &args.topic, sent: 0, would_send: None, failed: 0, id: None, unique_id: None };
    let failed = match &args.body {
        Some(text) => one(mq, args, delay, text, &mut summary).await?,
        None => many(mq, args, (&judge, delay), &mut summary).await?,
    };
    if args.change.dry_run {
        summary.would_send = Some(std::mem::take(&mut summary.sent));
    }
    context.output().rows([summary])?;
    Ok(failed.code())
}

async fn one(mq: &RocketMq, args: &Args, delay: Delay, text: &str, summary: &mut Sent<'_>) -> anyhow::Result<Failed> {
    let mut failed = Failed::default();
    if args.change.dry_run {
        summary.sent = 1;
        return Ok(failed);
    }
    match mq.send(&message(args, delay, text.as_bytes().to_vec())).await {
        Ok(receipt) => {
            summary.sent = 1;
            let place = format!("{}:{}:{}", receipt.queue.broker, receipt.queue.queue, receipt.offset);
            // A delayed one lies in a queue of the broker's own until then.
            summary.id = (delay == Delay::None).then_some(place);
            summary.unique_id = Some(receipt.message_id).filter(|id| !id.is_empty());
        }
        Err(error) => {
            summary.failed = 1;
            failed.note("the message", &error)?;
        }
    }
    Ok(failed)
}

/// The lines of stdin. What stops it half-way says how many lines were dealt with.
async fn many(
    mq: &RocketMq,
    args: &Args,
    (judge, delay): (&Judge, Delay),
    summary: &mut Sent<'_>,
) -> anyhow::Result<Failed> {
    let mut failed = Failed::default();
    let mut lines = std::io::stdin().lock().split(b'\n').zip(1_u64..);
    let mut pace = Pace::new(args.rps);
    let together = usize::try_from(args.rps.min(TOGETHER)).unwrap_or(1);
    let progress = bar(args);
    let dealt_with = tell_when_interrupted()?;
    loop {
        let mut numbers = Vec::new();
        let mut batch = Vec::new();
        let mut read = 0;
        for (line, number) in lines.by_ref().take(together) {
            read += 1;
            let mut line = line.with_context(|| format!("cannot read stdin after line {}", number - 1))?;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if number <= args.skip {
                continue;
            }
            match judge.check(&line) {
                Ok(()) => {
                    numbers.push(number);
                    batch.push(message(args, delay, line));
                }
                Err(fault) => {
                    summary.failed += 1;
                    failed.note(&format!("line {number}"), &fault)?;
                }
            }
        }
        if read == 0 {
            break;
        }
        let results = if args.change.dry_run { vec![Ok(()); batch.len()] } else { mq.publish(&batch).await };
        progress.inc(batch.len() as u64);
        for (number, result) in numbers.into_iter().zip(results) {
            match result {
                Ok(()) => summary.sent += 1,
                Err(error) => {
                    summary.failed += 1;
                    failed.note(&format!("line {number}"), &error)?;
                }
            }
        }
        dealt_with.fetch_add(read, Ordering::Relaxed);
        if !args.change.dry_run {
            pace.wait(batch.len()).await;
        }
    }
    progress.finish_and_clear();
    if summary.sent + summary.failed == 0 {
        writeln!(std::io::stderr(), "nothing came from stdin")?;
    }
    Ok(failed)
}

/// Counts lines; a signal says how many, for `--skip`, and ends the process: reading stdin cannot be interrupted.
fn tell_when_interrupted() -> anyhow::Result<Arc<AtomicU64>> {
    let dealt_with = Arc::new(AtomicU64::new(0));
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let count = Arc::clone(&dealt_with);
    tokio::spawn(async move {
        shutdown.token.cancelled().await;
        let lines = count.load(Ordering::Relaxed);
        eprintln!(
            "interrupted: the first {lines} lines were dealt with, and up to {TOGETHER} after them may be as well; \
             --skip {lines} goes on from there"
        );
        std::process::exit(130)
    });
    Ok(dealt_with)
}

fn bar(args: &Args) -> ProgressBar {
    if args.change.dry_run { ProgressBar::hidden() } else { crate::cmd::mq::progress(0, "sent") }
}

fn message(args: &Args, delay: Delay, body: Vec<u8>) -> Outgoing {
    Outgoing {
        topic: args.topic.clone(),
        tag: args.tag.clone(),
        key: args.key.clone(),
        body: body.into(),
        properties: args.properties.clone(),
        delay,
    }
}

/// Says of bodies what the groups that get them will say.
struct Judge {
    /// None: nobody here knows what it is.
    event: Option<Kind>,
    reader: Reader,
}

impl Judge {
    fn check(&self, body: &[u8]) -> Result<(), String> {
        if body.is_empty() {
            return Err("it has no body".to_owned());
        }
        self.event.map_or(Ok(()), |kind| self.reader.check(kind, body))
    }
}

fn delay(args: &Args, now_ms: i64) -> anyhow::Result<Delay> {
    Ok(match (args.delay, args.after, args.at) {
        (Some(level), _, _) => Delay::Level(level),
        (_, Some(after), _) => Delay::Until(now_ms + after.ms()),
        (_, _, Some(Position::At(at_ms))) if at_ms > now_ms => Delay::Until(at_ms),
        (_, _, Some(_)) => return Err(Usage("--at takes a time to come, as @2024-01-15T08:00".to_owned()).into()),
        (None, None, None) => Delay::None,
    })
}

/// The event that bodies are to be: the one named, else the one that this topic (and tag) carries.
fn event_of(config: &RocketMqConfig, args: &Args) -> Option<Kind> {
    if args.no_check || args.event.is_some() {
        return args.event;
    }
    let prefix = config.namespace.as_ref().map(|namespace| format!("{namespace}%"));
    let topic = prefix.and_then(|prefix| args.topic.strip_prefix(&prefix)).unwrap_or(&args.topic);
    let renamed = config.topics.iter().find(|(_, physical)| match physical.split_once(':') {
        Some((physical, tag)) => physical == topic && tag == args.tag,
        None => physical.as_str() == topic,
    });
    renamed.map_or_else(|| Kind::from_name(topic), |(name, _)| Kind::from_name(name))
}

/// The client puts its namespace before every topic that has none.
fn in_namespace(config: &RocketMqConfig, topic: &str) -> anyhow::Result<()> {
    match &config.namespace {
        Some(namespace) if !topic.starts_with(&format!("{namespace}%")) => {
            let outside: anyhow::Result<()> =
                Err(anyhow::anyhow!("{topic} lies outside of mq.namespace ({namespace}), where this would be sent"));
            outside.help(format!("name {namespace}%{topic}, or say --set mq.namespace="))
        }
        _ => Ok(()),
    }
}
