//! `ruyi mq topics plan` and `apply`: how a cluster differs from what is wanted, and making it so.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use super::compare::{Action, Difference, Seen, compare};
use super::edit::{MessageType, refusal};
use super::wanted::{Source, Wanted};
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::silent;
use crate::cmd::{Context, Failed};
use crate::mq::operate::{Permission, TopicPart, TopicSpec};
use crate::mq::rocketmq::{MqError, RocketMq};

/// What `plan --help` and `apply --help` say about the file.
pub(super) const FORMAT: &str = "\
The file:
  [topics.order-created]      # there, on every broker; each line below may be left out
  queues = 8                  # on every broker
  type = \"fifo\"               # normal, fifo, delay, transaction, mixed (which brokers refuse unless they have
                              # enableMixedMessageType=true)
  permission = \"read-write\"   # read-write, read, write, none
  [topics.old-orders]
  absent = true
  [groups.billing.subscriptions]   # the one subscription of all members: topic = filter
  order-created = \"*\"
  payment-success = \"pay || refund\"";

#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    source: Source,
    /// Exit with 1 when there are differences
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    #[command(flatten)]
    source: Source,
    /// Also what loses something: fewer queues, another type, deletions
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: Change,
}

/// Prints the differences.
pub(super) async fn plan(context: &Context, mq: &RocketMq, args: &Plan) -> anyhow::Result<ExitCode> {
    let wanted = Wanted::of(&context.config, mq, &args.source)?;
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let found = compare(&wanted, &seen(mq, &wanted).await?);
    let differs = args.exit_code && !found.is_empty();
    context.output().rows(found)?;
    Ok(if differs { ExitCode::FAILURE } else { failed.code() })
}

/// Makes the cluster as it is wanted, as far as it may and can.
pub(super) async fn apply(context: &Context, mq: &RocketMq, args: &Apply) -> anyhow::Result<ExitCode> {
    let wanted = Wanted::of(&context.config, mq, &args.source)?;
    let mut failed = Failed::default();
    silent::leave_out(mq, &mut failed).await?;
    let seen = seen(mq, &wanted).await?;
    let mut found = compare(&wanted, &seen);
    let due = |one: &Difference| one.action != Action::FixMember && (args.force || !one.needs_force);
    let count = found.iter().filter(|one| due(one)).count();
    let risky = found.iter().filter(|one| due(one) && one.needs_force).count();
    let what = match risky {
        0 => format!("make {count} changes"),
        risky => format!("make {count} changes, {risky} of which lose something"),
    };
    if count > 0 && args.change.approved(&what)? {
        let todo: Vec<&Difference> = found.iter().filter(|one| due(one)).collect();
        journal::record(context, "mq topics apply", args.change.reason.as_deref(), &todo)?;
        carry_out(mq, (&wanted, context.config.mq.queues), &seen, &mut found, due, &mut failed).await?;
    }
    if !args.change.dry_run {
        for one in found.iter().filter(|one| !due(one)) {
            let why = match one.action {
                Action::FixMember => "only whoever runs this member can change what it subscribes to",
                _ => "not done: it loses something; --force does it",
            };
            failed.note(&format!("{} of {} on {}", one.what, one.name, one.place), why)?;
        }
    }
    context.output().rows(found)?;
    Ok(failed.code())
}

/// Looks at the cluster: its topics, its groups, and what their members subscribe to.
async fn seen(mq: &RocketMq, wanted: &Wanted) -> Result<Seen, MqError> {
    let brokers = mq.master_addrs().await?;
    let (topics, groups) = (mq.topic_table().await?, mq.group_table().await?);
    let mut members = BTreeMap::new();
    let is_wanted = |group: &&String| !wanted.is_all || wanted.groups.contains_key(*group);
    for group in groups.values().flatten().filter(is_wanted).collect::<BTreeSet<_>>() {
        if !mq.connections(group).await?.is_empty() {
            members.insert(group.clone(), mq.members(group).await?);
        }
    }
    Ok(Seen { brokers, topics, groups, members })
}

/// Topic by topic and group by group, broker by broker; what fails is told, and the rest goes on.
async fn carry_out(
    mq: &RocketMq,
    (wanted, new_queues): (&Wanted, u32),
    seen: &Seen,
    found: &mut [Difference],
    due: impl Fn(&Difference) -> bool,
    failed: &mut Failed,
) -> anyhow::Result<()> {
    let mut gone: BTreeMap<String, Result<(), String>> = BTreeMap::new();
    let mut put: BTreeMap<(String, String), Result<(), String>> = BTreeMap::new();
    for at in 0..found.len() {
        let Some(one) = found.get(at).filter(|one| due(one)).cloned() else { continue };
        let Some(addr) = seen.brokers.get(&one.place) else { continue };
        let outcome = match (one.what, one.action) {
            ("group", _) => mq.create_group(addr, &one.name).await.map_err(|error| error.to_string()),
            (_, Action::Delete) => match gone.get(&one.name) {
                Some(outcome) => outcome.clone(),
                None => {
                    let outcome = delete(mq, seen, &one.name).await;
                    gone.insert(one.name.clone(), outcome.clone());
                    outcome
                }
            },
            // All that is to change of a topic on a broker is one request.
            _ => match put.get(&(one.name.clone(), one.place.clone())) {
                Some(outcome) => outcome.clone(),
                None => {
                    let here = |other: &&Difference| (&other.name, &other.place) == (&one.name, &one.place);
                    let actions: Vec<Action> =
                        found.iter().filter(here).filter(|other| due(other)).map(|other| other.action).collect();
                    let parts = seen.topics.get(&one.name);
                    let part = parts.and_then(|parts| parts.iter().find(|part| part.broker == one.place));
                    let spec = spec(wanted, new_queues, &one.name, part, &actions);
                    let outcome = mq.put_topic(addr, &spec).await.map_err(|error| refusal(&error, &spec));
                    put.insert((one.name.clone(), one.place.clone()), outcome.clone());
                    outcome
                }
            },
        };
        match outcome {
            Ok(()) => {
                if let Some(one) = found.get_mut(at) {
                    one.done = true;
                }
            }
            Err(why) => failed.note(&format!("{} of {} on {}", one.what, one.name, one.place), &why)?,
        }
    }
    Ok(())
}

/// Of every cluster that has the topic.
async fn delete(mq: &RocketMq, seen: &Seen, topic: &str) -> Result<(), String> {
    let plain = |error: MqError| error.to_string();
    let nodes = mq.brokers().await.map_err(plain)?;
    if nodes.iter().any(|node| mq.is_left_out(&node.addr)) {
        return Err(String::from("a broker does not answer, which would bring the topic back"));
    }
    let parts = seen.topics.get(topic).map(Vec::as_slice).unwrap_or_default();
    let has = |name: &String| parts.iter().any(|part| part.broker == *name);
    let clusters: BTreeSet<&String> = nodes.iter().filter(|node| has(&node.name)).map(|node| &node.cluster).collect();
    for cluster in clusters {
        mq.delete_topic(cluster, topic).await.map_err(plain)?;
    }
    Ok(())
}

/// What a topic is to be on a broker when only `actions` are done; a new one gets `new_queues`, unless it is said.
fn spec(wanted: &Wanted, new_queues: u32, name: &str, part: Option<&TopicPart>, actions: &[Action]) -> TopicSpec {
    let topic = wanted.topics.get(name);
    let does = |action: Action| actions.contains(&action) || actions.contains(&Action::Create);
    let is = part.map_or(new_queues, |part| part.read_queues);
    let queues = topic.and_then(|topic| topic.queues).filter(|_| does(Action::AddQueues) || does(Action::RemoveQueues));
    let permission = topic.and_then(|topic| topic.permission).filter(|_| does(Action::SetPermission));
    let message_type = topic.and_then(|topic| topic.message_type).filter(|_| does(Action::SetType));
    TopicSpec {
        name: name.to_owned(),
        queues: queues.unwrap_or(is),
        permission: permission.unwrap_or_else(|| part.map_or(Permission::ReadWrite, |part| part.permission)),
        message_type: message_type.map(MessageType::name).map(str::to_owned),
    }
}
