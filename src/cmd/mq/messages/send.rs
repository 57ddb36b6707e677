//! Sending messages by hand.

use std::io::BufRead;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::cluster::Where;
use crate::cmd::mq::offsets::plan;
use crate::cmd::{Context, Failed, Usage};
use crate::mq::message::{Delay, DelayLevel, Outgoing};
use crate::mq::rocketmq::RocketMq;

/// Lines sent together.
const TOGETHER: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic as it is called on the broker
    topic: String,
    /// The body
    #[arg(long, value_name = "TEXT", conflicts_with = "stdin", required_unless_present = "stdin")]
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
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Kept back by the broker for one of its levels: 1s 5s 10s 30s 1m..10m 20m 30m 1h 2h
    #[arg(long, value_name = "LEVEL")]
    delay: Option<DelayLevel>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) place: Where,
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    topic: &'a str,
    sent: u64,
    failed: u64,
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    if args.change.dry_run {
        context.output().rows([Summary { topic: &args.topic, sent: 0, failed: 0 }])?;
        return Ok(ExitCode::SUCCESS);
    }
    // Stdin is the messages: nobody can be asked there.
    if args.stdin && !args.change.yes {
        return Err(Usage("with --stdin say --yes, or --dry-run to only look".to_owned()).into());
    }
    if !args.change.approved(&format!("send to {}", args.topic))? {
        return Ok(ExitCode::SUCCESS);
    }
    let what = (&args.topic, &args.tag, &args.key, &args.properties);
    journal::record(context, "mq messages send", args.change.reason.as_deref(), &what)?;
    let mut summary = Summary { topic: &args.topic, sent: 0, failed: 0 };
    let mut failed = Failed::default();
    let mut lines: Box<dyn Iterator<Item = std::io::Result<String>>> = match &args.body {
        Some(body) => Box::new(std::iter::once(Ok(body.clone()))),
        None => Box::new(std::io::stdin().lock().lines()),
    };
    loop {
        let batch: Vec<String> =
            lines.by_ref().take(TOGETHER).collect::<Result<_, _>>().context("cannot read stdin")?;
        if batch.is_empty() {
            break;
        }
        let first = summary.sent + summary.failed + 1;
        let messages: Vec<Outgoing> = batch.into_iter().map(|body| message(args, body)).collect();
        for (number, result) in (first..).zip(mq.publish(&messages).await) {
            match result {
                Ok(()) => summary.sent += 1,
                Err(error) => {
                    summary.failed += 1;
                    failed.note(&format!("message {number}"), &error)?;
                }
            }
        }
    }
    context.output().rows([summary])?;
    Ok(failed.code())
}

fn message(args: &Args, body: String) -> Outgoing {
    Outgoing {
        topic: args.topic.clone(),
        tag: args.tag.clone(),
        key: args.key.clone(),
        body: body.into_bytes().into(),
        properties: args.properties.clone(),
        delay: args.delay.map_or(Delay::None, Delay::Level),
    }
}
