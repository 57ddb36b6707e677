//! What is asked of the databases.

use anyhow::Context as _;

use super::{Range, Report, float, limits, seconds_since};
use crate::cmd::{Context, audit};
use crate::config::Millis;
use crate::db::{Db, delivery, outbox as outbox_rows, retry as parked};
use crate::domain::event::{Group, Role};
use crate::domain::id::first_id_of;

/// Arguments of `ruyi check outbox`.
#[derive(Debug, clap::Args)]
pub(super) struct Outbox {
    /// Seconds for which the oldest row may wait
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Seconds for which the oldest row may wait
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    /// Rows that may have been given up
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn_failed: Option<Range>,
    /// Rows that may have been given up
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit_failed: Option<Range>,
}

/// Arguments of `ruyi check retry`.
#[derive(Debug, clap::Args)]
pub(super) struct Retry {
    /// Only this group; may be repeated [default: all groups of ruyi]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Messages that may be parked, per group
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Messages that may be parked, per group
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    /// Seconds by which an attempt may be late
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn_late: Option<Range>,
    /// Seconds by which an attempt may be late
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit_late: Option<Range>,
}

/// Arguments of `ruyi check delivery`.
#[derive(Debug, clap::Args)]
pub(super) struct Delivery {
    /// Seconds by which a call may be late
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn: Option<Range>,
    /// Seconds by which a call may be late
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit: Option<Range>,
    /// Calls that may have been given up
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    warn_failed: Option<Range>,
    /// Calls that may have been given up
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    crit_failed: Option<Range>,
    /// Count what was given up of the calls recorded within this time
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    since: Millis,
}

/// The databases of `roles`, each once, with a name that says whose it is.
async fn databases(context: &Context, roles: &[Role]) -> anyhow::Result<Vec<(String, Vec<Role>, Db)>> {
    let all = context.config.databases(roles);
    let shared = all.len() == 1;
    let mut open = Vec::new();
    for (url, roles) in all {
        let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        let name = if shared { String::new() } else { format!(" {}", names.join("+")) };
        open.push((name, roles, audit::open_one(context, &url).await?));
    }
    Ok(open)
}

pub(super) async fn outbox(context: &Context, args: &Outbox) -> anyhow::Result<Report> {
    let age = limits(args.warn, args.crit, Range::up_to(60.0), Range::up_to(300.0));
    let failed = limits(args.warn_failed, args.crit_failed, Range::up_to(0.0), Range::up_to(10.0));
    let now_ms = context.clock.now_ms();
    let mut report = Report::new("OUTBOX");
    let (mut waiting, mut given_up) = (0, 0);
    for (name, _, db) in databases(context, &Role::ALL).await? {
        let mut conn = db.read().await?;
        let (rows, oldest) = outbox_rows::overdue(&mut conn, now_ms).await.context("cannot read the outbox")?;
        let lost = outbox_rows::given_up(&mut conn, 0).await.context("cannot read the outbox")?;
        let seconds = seconds_since(oldest, now_ms);
        let about = format!("the oldest of {rows} unsent events{name} has waited for {seconds:.0} s");
        report.measured(&format!("age{name}"), seconds, "s", &age, &about);
        let about = format!("{lost} events{name} were given up: `ruyi mq outbox list`, `ruyi mq outbox redrive`");
        report.measured(&format!("failed{name}"), float(lost), "", &failed, &about);
        waiting += rows;
        given_up += lost;
    }
    report.summary = format!("{waiting} events wait, {given_up} were given up");
    Ok(report)
}

pub(super) async fn retry(context: &Context, args: &Retry) -> anyhow::Result<Report> {
    let waiting = limits(args.warn, args.crit, Range::up_to(100.0), Range::up_to(1000.0));
    let late = limits(args.warn_late, args.crit_late, Range::up_to(60.0), Range::up_to(300.0));
    let groups = named(&args.groups)?;
    let roles: Vec<Role> = Role::ALL.into_iter().filter(|role| groups.iter().any(|g| g.role() == *role)).collect();
    let now_ms = context.clock.now_ms();
    let mut report = Report::new("RETRY");
    let mut sum = 0;
    for (_, roles, db) in databases(context, &roles).await? {
        let mut conn = db.read().await?;
        for group in groups.iter().filter(|group| roles.contains(&group.role())) {
            let name = group.name();
            let (rows, first) = parked::waiting_of(&mut conn, name).await.context("cannot read the parked messages")?;
            report.measured(name, float(rows), "", &waiting, &format!("{rows} messages of {name} are parked"));
            let seconds = seconds_since(first, now_ms);
            let about = format!("{name} should have tried again {seconds:.0} s ago: does a process of its role run?");
            report.measured(&format!("{name} late"), seconds, "s", &late, &about);
            sum += rows;
        }
    }
    report.summary = format!("{sum} messages of {} groups are parked", groups.len());
    Ok(report)
}

fn named(names: &[String]) -> anyhow::Result<Vec<Group>> {
    if names.is_empty() {
        return Ok(Group::ALL.to_vec());
    }
    let known = |name: &String| Group::from_name(name).with_context(|| format!("{name} is not a group of ruyi"));
    names.iter().map(known).collect()
}

pub(super) async fn delivery(context: &Context, args: &Delivery) -> anyhow::Result<Report> {
    let late = limits(args.warn, args.crit, Range::up_to(60.0), Range::up_to(300.0));
    let failed = limits(args.warn_failed, args.crit_failed, Range::up_to(0.0), Range::up_to(100.0));
    let now_ms = context.clock.now_ms();
    let first = first_id_of(now_ms - args.since.ms(), 0);
    let mut report = Report::new("DELIVERY");
    let (mut waiting, mut given_up) = (0, 0);
    for (name, _, db) in databases(context, &Role::ALL).await? {
        let mut conn = db.read().await?;
        let (rows, oldest) = delivery::overdue(&mut conn, now_ms).await.context("cannot read the calls")?;
        let lost = delivery::given_up(&mut conn, first).await.context("cannot read the calls")?;
        let seconds = seconds_since(oldest, now_ms);
        let about = format!("a call{name} should have been made {seconds:.0} s ago ({rows} are due)");
        report.measured(&format!("late{name}"), seconds, "s", &late, &about);
        let about = format!("{lost} calls{name} of the last {} were given up or refused", args.since);
        report.measured(&format!("failed{name}"), float(lost), "", &failed, &about);
        waiting += rows;
        given_up += lost;
    }
    report.summary = format!("{waiting} calls are due, {given_up} of the last {} were given up", args.since);
    Ok(report)
}
