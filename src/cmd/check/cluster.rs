//! What is asked of the brokers about groups.

use super::{Limits, Range, Report, Status, Where, float, limits, seconds_since};
use crate::cmd::Context;
use crate::cmd::mq::cluster::Cluster;
use crate::cmd::mq::dlq::Depth;
use crate::config::Millis;
use crate::domain::event::Group;
use crate::mq::backlog::standings;
use crate::mq::message::QueueId;
use crate::mq::operate::Standing;
use crate::mq::owners::{self, Grace, Suspect, Unowned};
use crate::mq::rocketmq::{DLQ_PREFIX, MqError, RocketMq};

/// Arguments of `ruyi check backlog`.
#[derive(Debug, clap::Args)]
pub(super) struct Backlog {
    /// Only this group, of any application; may be repeated [default: the groups of ruyi]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Messages that a group may be behind
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Messages that a group may be behind
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    /// Seconds that the oldest message that a group has not consumed may be old
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn_age: Option<Range>,
    /// Seconds that the oldest message that a group has not consumed may be old
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit_age: Option<Range>,
    /// A queue that none of the members of its group has is critical when messages have waited there for longer
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    unowned_after: Millis,
    #[command(flatten)]
    place: Where,
}

/// Arguments of `ruyi check dlq`.
#[derive(Debug, clap::Args)]
pub(super) struct Dlq {
    /// Only this group; may be repeated [default: all groups that have dead letters]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Count only what died within this time
    #[arg(long, value_name = "DURATION")]
    since: Option<Millis>,
    /// Dead letters that a group may have
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Dead letters that a group may have
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn backlog(context: &Context, args: &Backlog) -> anyhow::Result<Report> {
    let cluster = Cluster::open(context, &args.place).await?;
    let mq = &cluster.mq;
    let groups: Vec<String> = match args.groups.as_slice() {
        [] => Group::ALL.iter().map(|group| group.name().to_owned()).collect(),
        named => named.to_vec(),
    };
    let topics = mq.topics().await?;
    let mut report = Report::new("BACKLOG");
    missing_brokers(&mut report, mq).await?;
    let mut sum = 0;
    let (grace, mut suspects) = (Grace::new(args.unowned_after.duration(), context.clock.now_ms()), Vec::new());
    for group in &groups {
        let threshold = float(context.config.backlog.limit(group).threshold);
        let wanted = limits(args.warn, args.crit, Range::up_to((threshold / 10.0).floor()), Range::up_to(threshold));
        match standings(mq, group).await {
            Ok(queues) => {
                sum += judge(&mut report, group, &queues, &wanted);
                // A group that has no queue at all has committed nothing anywhere, and is not known to be behind.
                if queues.is_empty() || queues.iter().any(|(_, standing)| standing.lag() != Some(0)) {
                    suspects.extend(suspect(&mut report, mq, group, grace).await);
                }
            }
            Err(error) => {
                let why = missing(mq, group, &topics).unwrap_or_else(|| error.to_string());
                report.trouble(Status::Unknown, Some(group), &format!("lag of {group} unknown: {why}"));
            }
        }
        let ages = Limits { warn: args.warn_age, crit: args.crit_age };
        if ages.warn.is_some() || ages.crit.is_some() {
            age(&mut report, mq, group, &ages, context.clock.now_ms()).await;
        }
    }
    match owners::still_unowned(mq, suspects, grace).await {
        Ok(found) => found.iter().for_each(|one| unowned(&mut report, one)),
        Err(error) => report.trouble(Status::Unknown, None, &format!("who has which queue is unknown: {error}")),
    }
    report.summary = format!("{sum} messages behind in {} groups", groups.len());
    Ok(report)
}

/// What a broker has that the name servers have forgotten is not counted.
async fn missing_brokers(report: &mut Report, mq: &RocketMq) -> anyhow::Result<()> {
    for name in mq.missing_brokers().await? {
        report.trouble(Status::Unknown, None, &format!("broker {name} is known to no name server"));
    }
    Ok(())
}

/// The topics of a group of ruyi that the cluster does not have, in words: the client says less.
fn missing(mq: &RocketMq, group: &str, topics: &[String]) -> Option<String> {
    let wanted = Group::from_name(group)?.events().map(|kind| mq.on_brokers(kind.name()));
    let missing: Vec<String> = wanted.filter(|topic| !topics.contains(topic)).collect();
    (!missing.is_empty()).then(|| format!("the cluster has no topic {}", missing.join(", ")))
}

/// What a group is behind, as far as is known; a group that stands beyond the end of a queue loses messages now.
fn judge(report: &mut Report, group: &str, queues: &[(QueueId, Standing)], limits: &Limits) -> i64 {
    let known: i64 = queues.iter().filter_map(|(_, standing)| standing.lag()).sum();
    let unknown = queues.iter().filter(|(_, standing)| standing.lag().is_none()).count();
    let mut topics: Vec<&str> =
        queues.iter().filter(|(_, standing)| standing.is_beyond()).map(|(queue, _)| queue.topic.as_str()).collect();
    topics.dedup();
    if !topics.is_empty() {
        let why = format!(
            "{group} stands beyond the end of queues of {}, and passes messages over: `ruyi mq offsets reset {group} \
             --topic TOPIC --to start` for each",
            topics.join(", ")
        );
        report.trouble(Status::Critical, Some(group), &why);
        return known;
    }

    // What is known can be too much already; more is not going to mend it.
    if unknown == 0 && !queues.is_empty() || limits.judge(float(known)) != Status::Ok {
        report.measured(group, float(known), "", limits, &format!("{group} is {known} messages behind"));
    } else {
        let why = format!("lag of {group} unknown: it has committed nothing in {unknown} of {} queues", queues.len());
        report.trouble(Status::Unknown, Some(group), &why);
    }
    known
}

/// A group with members that seem to leave queues to nobody.
async fn suspect(report: &mut Report, mq: &RocketMq, group: &str, grace: Grace) -> Option<Suspect> {
    let on_brokers = mq.on_brokers(group);
    let found = async {
        let members = mq.members(&on_brokers).await?;
        Suspect::of(mq, &on_brokers, &members, grace).await
    };
    found.await.unwrap_or_else(|error| {
        report.trouble(Status::Unknown, Some(group), &format!("who has the queues of {group} is unknown: {error}"));
        None
    })
}

/// Messages that nobody comes for, however few they are.
fn unowned(report: &mut Report, found: &Unowned) {
    let Unowned { group, .. } = found;
    let why = format!("{group}: {} ({}): start one of them again", found.message(), found.places());
    report.trouble(Status::Critical, Some(group), &why);
}

/// Of the oldest message that a group has not consumed.
async fn age(report: &mut Report, mq: &RocketMq, group: &str, limits: &Limits, now_ms: i64) {
    match oldest(mq, group).await {
        Ok(None) => {
            let why = format!("age of {group} unknown: nobody knows where it stands in all of its queues");
            report.trouble(Status::Unknown, Some(group), &why);
        }
        Ok(Some(oldest)) => {
            let seconds = seconds_since(oldest, now_ms);
            let about = format!("the oldest message that {group} has not consumed is {seconds:.0} s old");
            report.measured(&format!("{group} age"), seconds, "s", limits, &about);
        }
        Err(error) => report.trouble(Status::Unknown, Some(group), &format!("age of {group} unknown: {error}")),
    }
}

/// When the oldest message that the group has not consumed was stored, if there is one; none at all where that is not
/// known of every queue, and of none it is known that something waits.
async fn oldest(mq: &RocketMq, group: &str) -> Result<Option<Option<i64>>, MqError> {
    let group = mq.on_brokers(group);
    let addrs = mq.master_addrs().await?;
    let (mut oldest, mut is_known): (Option<i64>, bool) = (None, true);
    for topic in mq.topics_of(&group).await? {
        for queue in mq.committed(&group, &topic).await? {
            is_known &= queue.standing().lag().is_some();
            oldest = oldest.into_iter().chain(mq.oldest_unconsumed(&addrs, &queue).await?).min();
        }
    }
    Ok((is_known || oldest.is_some()).then_some(oldest))
}

pub(super) async fn dlq(context: &Context, args: &Dlq) -> anyhow::Result<Report> {
    let cluster = Cluster::open(context, &args.place).await?;
    let mq = &cluster.mq;
    let limits = limits(args.warn, args.crit, Range::up_to(0.0), Range::up_to(100.0));
    let from_ms = args.since.map(|since| context.clock.now_ms() - since.ms());
    let (addrs, topics) = (mq.master_addrs().await?, mq.topics().await?);
    let groups: Vec<String> = match args.groups.as_slice() {
        [] => topics.iter().filter_map(|topic| topic.strip_prefix(DLQ_PREFIX)).map(str::to_owned).collect(),
        named => named.iter().map(|name| mq.on_brokers(name)).collect(),
    };
    let known = if args.groups.is_empty() { Vec::new() } else { mq.groups().await? };
    let mut report = Report::new("DLQ");
    missing_brokers(&mut report, mq).await?;
    let mut sum = 0;
    for group in &groups {
        let topic = format!("{DLQ_PREFIX}{group}");
        let counted = match topics.contains(&topic) {
            true => Depth::of(mq, &context.config.data_dir, &addrs, group, from_ms).await.map(|depth| depth.open),
            // A group that nothing has died of has no such topic.
            false if known.contains(group) => Ok(0),
            false => {
                report.trouble(Status::Unknown, Some(group), &format!("there is no group {group}"));
                continue;
            }
        };
        match counted {
            Ok(count) => {
                let recent = args.since.map(|since| format!(" of the last {since}")).unwrap_or_default();
                let about = format!("{group} has {count} dead letters{recent}: `ruyi mq dlq browse {group}`");
                report.measured(group, float(count), "", &limits, &about);
                sum += count;
            }
            Err(error) => report.trouble(Status::Unknown, Some(group), &format!("{topic} cannot be read: {error:#}")),
        }
    }
    if groups.is_empty() {
        // The cluster answered, and has none: that is known.
        report.measured("all", 0.0, "", &limits, "there are no dead letters");
    }
    report.summary = format!("{sum} dead letters in {} groups", groups.len());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_nobody_are_critical() {
        let queue = QueueId { topic: "T".to_owned(), broker: "a".to_owned(), queue: 3 };
        let mut report = Report::new("BACKLOG");
        report.measured("g", 1.0, "", &limits(None, None, Range::up_to(10.0), Range::up_to(100.0)), "");
        unowned(&mut report, &Unowned { group: "g".to_owned(), members: 2, queues: vec![queue] });
        let text = report.text();
        let said = "BACKLOG CRITICAL - g: messages wait in 1 queues that none of its 2 members has (T a:3): start";
        assert!(text.starts_with(said) && text.contains("'g'=1;10;100;0"), "{text}");
    }
}
