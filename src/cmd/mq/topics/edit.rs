//! Making, changing and removing topics.

use std::collections::BTreeSet;
use std::io::{Write, stderr};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::existing;
use super::wanted::MAX_QUEUES;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::silent;
use crate::cmd::{Context, Failed, Usage, WithHelp};
use crate::mq::operate::{Permission, TopicSpec};
use crate::mq::rocketmq::{MqError, RocketMq};

/// RocketMQ's answer to a setting that it does not take.
const INVALID_PARAMETER: i32 = 29;

/// Message types of Apache RocketMQ 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    /// All of these; brokers refuse it unless they have enableMixedMessageType=true
    Mixed,
}

impl MessageType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            Self::Mixed => "MIXED",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Allow {
    ReadWrite,
    Read,
    Write,
    None,
}

impl From<Allow> for Permission {
    fn from(allow: Allow) -> Self {
        match allow {
            Allow::ReadWrite => Self::ReadWrite,
            Allow::Read => Self::Read,
            Allow::Write => Self::Write,
            Allow::None => Self::None,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Put {
    /// Topic as it is to be called on the broker
    topic: String,
    /// Queues on each broker, to read and to write
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUEUES)))]
    queues: Option<u32>,
    /// What may be done with it
    #[arg(long, value_enum)]
    permission: Option<Allow>,
    /// What it carries (Apache RocketMQ 5 checks it only where the broker is configured to)
    #[arg(long = "type", value_enum)]
    message_type: Option<MessageType>,
    /// Only on this broker
    #[arg(long, value_name = "NAME")]
    broker: Option<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
pub(super) struct Update {
    #[command(flatten)]
    put: Put,
    /// Also fewer queues: what lies in those that go away is read by nobody any more
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// Topic as it is called on the broker
    topic: String,
    #[command(flatten)]
    change: Change,
}

/// What is done with a topic on a broker.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Step {
    topic: String,
    broker: String,
    /// create, exists, update, unchanged or delete.
    action: &'static str,
    queues: Option<u32>,
    permission: Option<Permission>,
    #[serde(rename = "type")]
    message_type: Option<String>,
    done: bool,
}

/// Makes a topic where it is missing; what exists is left as it is.
pub(super) async fn create(context: &Context, mq: &RocketMq, args: &Put) -> anyhow::Result<ExitCode> {
    check_name(&args.topic)?;
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let there = mq.topic(&args.topic).await?;
    let mut steps = Vec::new();
    for node in masters(mq, args.broker.as_deref()).await? {
        let spec = TopicSpec {
            name: args.topic.clone(),
            queues: args.queues.unwrap_or(context.config.mq.queues),
            permission: args.permission.map_or(Permission::ReadWrite, Permission::from),
            message_type: args.message_type.map(|kind| kind.name().to_owned()),
        };
        if let Some(part) = there.iter().find(|part| part.broker == node.name) {
            let is = TopicSpec {
                queues: part.read_queues,
                permission: part.permission,
                message_type: Some(part.message_type.clone()),
                ..spec
            };
            if args.queues.is_some_and(|wanted| wanted != is.queues) {
                failed.note(&node.name, &format!("has {} with {} queues: `update` changes it", is.name, is.queues))?;
            }
            steps.push((node.addr, step(&is, node.name, "exists"), is));
        } else {
            steps.push((node.addr, step(&spec, node.name, "create"), spec));
        }
    }
    carry_out(context, mq, steps, failed, "mq topics create", &args.change).await
}

/// Changes a topic where it exists.
pub(super) async fn update(context: &Context, mq: &RocketMq, update: &Update) -> anyhow::Result<ExitCode> {
    let args = &update.put;
    if args.queues.is_none() && args.permission.is_none() && args.message_type.is_none() {
        return Err(Usage("say what to change: --queues, --permission or --type".to_owned()).into());
    }
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let mut steps = Vec::new();
    for part in existing(mq, &args.topic).await? {
        if args.broker.as_ref().is_some_and(|broker| *broker != part.broker) {
            continue;
        }
        let spec = TopicSpec {
            name: args.topic.clone(),
            queues: args.queues.unwrap_or(part.read_queues),
            permission: args.permission.map_or(part.permission, Permission::from),
            message_type: args.message_type.map(|kind| kind.name().to_owned()),
        };
        let same = spec.queues == part.read_queues
            && spec.queues == part.write_queues
            && spec.permission == part.permission
            && spec.message_type.as_ref().is_none_or(|kind| *kind == part.message_type);
        if spec.queues < part.read_queues && !same {
            let (ranges, _) = mq.ranges_on(&args.topic, [part.addr.as_str()]).await?;
            let gone = ranges.iter().filter(|range| i64::from(range.queue.queue) >= i64::from(spec.queues));
            let lost: i64 = gone.map(|range| range.max - range.min).sum();
            let text =
                format!("{}: {lost} messages lie in the queues that go away, and will be read by nobody", part.broker);
            if !update.force && !args.change.dry_run {
                return Err(anyhow::anyhow!(text))
                    .help("set the topic to read only until its groups are through, then say --force");
            }
            writeln!(stderr(), "{text}")?;
        }
        let action = if same { "unchanged" } else { "update" };
        steps.push((part.addr, step(&spec, part.broker, action), spec));
    }
    if steps.is_empty() {
        let broker = args.broker.clone().unwrap_or_default();
        return Err(anyhow::anyhow!("{} is not on broker {broker}", args.topic))
            .help("`ruyi mq topics show` lists them");
    }
    carry_out(context, mq, steps, failed, "mq topics update", &args.change).await
}

/// Removes a topic everywhere.
pub(super) async fn delete(context: &Context, mq: &RocketMq, args: &Delete) -> anyhow::Result<ExitCode> {
    // One that is silent now would bring the topic back.
    silent::refuse(mq, None).await?;
    let parts = existing(mq, &args.topic).await?;
    let (ranges, _) = mq.ranges_on(&args.topic, parts.iter().map(|part| part.addr.as_str())).await?;
    let messages: i64 = ranges.iter().map(|range| range.max - range.min).sum();
    let mut steps: Vec<Step> = parts
        .iter()
        .map(|part| Step {
            topic: args.topic.clone(),
            broker: part.broker.clone(),
            action: "delete",
            queues: Some(part.read_queues),
            permission: None,
            message_type: None,
            done: false,
        })
        .collect();
    let what = format!("delete {} with {messages} messages on {} brokers", args.topic, parts.len());
    let mut failed = Failed::default();
    if args.change.approved(&what)? {
        journal::record(context, "mq topics delete", args.change.reason.as_deref(), &steps)?;
        let nodes = mq.brokers().await?;
        let of = |step: &Step| nodes.iter().find(|node| node.name == step.broker).map(|node| node.cluster.clone());
        for cluster in steps.iter().filter_map(of).collect::<BTreeSet<String>>() {
            match mq.delete_topic(&cluster, &args.topic).await {
                Ok(()) => {
                    let there = steps.iter_mut().filter(|step| of(step).as_ref() == Some(&cluster));
                    there.for_each(|step| step.done = true);
                }
                Err(error) => {
                    // It may be gone from brokers all the same: a name server that is away is asked as well.
                    for step in steps.iter_mut().filter(|step| of(step).as_ref() == Some(&cluster)) {
                        let left = mq.topic(&args.topic).await;
                        step.done = left.is_ok_and(|left| !left.iter().any(|part| part.broker == step.broker));
                    }
                    failed.note(&format!("cluster {cluster}"), &error)?;
                }
            }
        }
    }
    context.output().rows(steps)?;
    Ok(failed.code())
}

fn step(spec: &TopicSpec, broker: String, action: &'static str) -> Step {
    Step {
        topic: spec.name.clone(),
        broker,
        action,
        queues: Some(spec.queues),
        permission: Some(spec.permission),
        message_type: spec.message_type.clone(),
        done: false,
    }
}

async fn carry_out(
    context: &Context,
    mq: &RocketMq,
    mut steps: Vec<(String, Step, TopicSpec)>,
    mut failed: Failed,
    command: &str,
    change: &Change,
) -> anyhow::Result<ExitCode> {
    let due = |step: &Step| matches!(step.action, "create" | "update");
    let count = steps.iter().filter(|(_, step, _)| due(step)).count();
    if count > 0 && change.approved(&format!("{command} on {count} brokers"))? {
        let plan: Vec<&Step> = steps.iter().map(|(_, step, _)| step).collect();
        journal::record(context, command, change.reason.as_deref(), &plan)?;
        for (addr, step, spec) in steps.iter_mut().filter(|(_, step, _)| due(step)) {
            match mq.put_topic(addr, spec).await {
                Ok(()) => step.done = true,
                Err(error) => failed.note(&step.broker, &refusal(&error, spec))?,
            }
        }
    }
    context.output().rows(steps.into_iter().map(|(_, step, _)| step))?;
    Ok(failed.code())
}

/// Why a broker did not take a topic, and what makes it take it.
pub(super) fn refusal(error: &MqError, spec: &TopicSpec) -> String {
    let is_mixed = spec.message_type.as_deref() == Some(MessageType::Mixed.name());
    if is_mixed && error.code() == Some(INVALID_PARAMETER) {
        return format!("{error}; a broker takes topics of the type mixed with enableMixedMessageType=true only");
    }
    error.to_string()
}

async fn masters(mq: &RocketMq, only: Option<&str>) -> anyhow::Result<Vec<crate::mq::operate::BrokerNode>> {
    let mut nodes = mq.brokers().await?;
    nodes.retain(|node| node.is_master() && !mq.is_left_out(&node.addr));
    if let Some(only) = only {
        let names = nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>().join(", ");
        nodes.retain(|node| node.name == only);
        if nodes.is_empty() {
            return Err(anyhow::anyhow!("there is no broker {only}")).help(format!("the brokers are {names}"));
        }
    }
    Ok(nodes)
}

/// What RocketMQ takes as a topic name.
pub(super) fn check_name(name: &str) -> Result<(), Usage> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_');
    if name.is_empty() || name.len() > 127 || !name.chars().all(legal) {
        let text = format!("{name:?} is no topic name: 1 to 127 letters, digits, %, |, - or _ (no dots)");
        return Err(Usage(text));
    }
    Ok(())
}
