//! `ruyi doctor`: everything that can be looked at, and what to do about it. Nothing is written anywhere.

mod broker;
mod clock;
mod cluster;
mod database;
mod groups;
mod offsets;
mod redis;
mod service;
mod settings;
mod topics;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use utoipa::ToSchema;

use super::Context;
use super::mq::cluster::Where;
use crate::config::Millis;
use crate::domain::event::Role;
use crate::mq::owners::Grace;
use crate::output::{Format, Output, printable};

/// Look at brokers, databases, Redis, roles that run and the configuration, and say what is wrong and what to do
///
/// Reads only: nothing is changed on the cluster, in a database or in Redis. No role of ruyi has to run, and the cluster
/// may be one that has none of its topics. Databases, Redis, roles and the cluster are looked at at the same time; what cannot
/// be looked at is a finding, and keeps nobody from the others.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Severities: error (it does not work, or loses something), warning (it works, and should not stay so), info, ok.
Exit codes: 0 no error was found, 1 an error was found, 2 wrong usage or configuration.

Examples:
  ruyi doctor
  ruyi doctor --namesrv 10.0.0.1:9876 --only broker,topic,group
  ruyi doctor --output json | jq '.items[] | select(.severity == \"error\")'")]
pub struct Args {
    /// Only findings of these areas: config, database, redis, service, broker, topic, group, dlq, clock
    #[arg(long, value_name = "AREA,...", value_delimiter = ',', value_parser = AREAS)]
    only: Vec<String>,

    /// What has not been looked at after this is left out, and that is a finding
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Millis,

    /// A queue that none of the members of its group has is an error when messages have waited there for longer
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    unowned_after: Millis,

    #[command(flatten)]
    place: Where,
}

const AREAS: [&str; 9] = ["config", "database", "redis", "service", "broker", "topic", "group", "dlq", "clock"];

/// How much a finding matters; the last one most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::cmd) enum Severity {
    /// It was looked at, and is well.
    Ok,
    /// Worth knowing.
    Info,
    /// It works, and should not stay so.
    Warning,
    /// It does not work, or loses something.
    Error,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Finding {
    severity: Severity,
    /// Its kind, the area before the dot: broker.connect, topic.missing, ...
    check: &'static str,
    /// What it is about: a topic, a group, an address, a setting.
    subject: String,
    message: String,
    /// What was seen.
    evidence: Option<String>,
    /// What to do about it.
    fix: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, check, subject: subject.into(), message: message.into(), evidence: None, fix: None }
    }

    fn ok(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, subject, message)
    }

    fn info(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, check, subject, message)
    }

    fn warning(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, subject, message)
    }

    fn error(check: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, subject, message)
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = Some(evidence.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn area(&self) -> &str {
        self.check.split('.').next().unwrap_or_default()
    }
}

/// Where findings are gathered: what was found before the time was up is not lost.
#[derive(Clone, Debug, Default)]
struct Findings(Arc<Mutex<Vec<Finding>>>);

impl Findings {
    fn add(&self, finding: Finding) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs `ruyi doctor`.
///
/// # Errors
/// The output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let findings = Findings::default();
    let wants = |areas: &[&str]| args.only.is_empty() || args.only.iter().any(|one| areas.contains(&one.as_str()));
    let limit = args.timeout.duration();
    let mut looks = Vec::new();
    if wants(&["config"]) {
        settings::look(&context.config, &findings);
    }
    if wants(&["database", "clock"]) {
        for (url, roles) in context.config.databases(&Role::ALL) {
            let (context, into, name) = (context.clone(), findings.clone(), url.masked());
            let look = async move { database::look(&context, &url, &roles, &into).await };
            looks.push(start("database.late", name, limit, look, &findings));
        }
    }
    if wants(&["redis"]) {
        let (context, into) = (context.clone(), findings.clone());
        let look = async move { redis::look(&context.config.cache, &into).await };
        looks.push(start("redis.late", "cache.url".to_owned(), limit, look, &findings));
    }
    if wants(&["service"]) {
        let (context, into) = (context.clone(), findings.clone());
        let look = async move { service::look(&context.config.client, &into).await };
        looks.push(start("service.late", "client".to_owned(), limit, look, &findings));
    }
    if wants(&["broker", "topic", "group", "dlq", "clock", "config"]) {
        let (context, into, place) = (context.clone(), findings.clone(), args.place.clone());
        let grace = Grace::new(args.unowned_after.duration(), context.clock.now_ms());
        let look = async move { cluster::look(&context, &place, grace, &into).await };
        looks.push(start("broker.late", "cluster".to_owned(), limit, look, &findings));
    }
    futures_util::future::join_all(looks).await;
    let mut found = findings.take();
    found.retain(|finding| wants(&[finding.area()]));
    // The worst last: that is what a terminal shows.
    found.sort_by_key(|finding| finding.severity);
    let worst = found.iter().map(|finding| finding.severity).max();
    print(context, found)?;
    // At once: clients of servers that hang would take their time to close.
    std::process::exit(i32::from(worst == Some(Severity::Error)))
}

/// Looks in a task of its own, and at most so long: what hangs is left behind, not waited for.
fn start(
    check: &'static str,
    subject: String,
    limit: Duration,
    look: impl Future<Output = ()> + Send + 'static,
    findings: &Findings,
) -> BoxFuture<'static, ()> {
    let (work, findings) = (tokio::spawn(look), findings.clone());
    Box::pin(async move {
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(())) => {}
            Ok(Err(stopped)) => {
                findings.add(Finding::error(check, subject, "the look failed").seen(stopped.to_string()))
            }
            Err(_) => {
                let message = format!("not all was looked at within {} ms", limit.as_millis());
                let fix = "see whether it answers at all, or give more time with --timeout";
                findings.add(Finding::error(check, subject, message).fix(fix));
            }
        }
    })
}

fn print(context: &Context, found: Vec<Finding>) -> anyhow::Result<()> {
    let mut output = Output::stdout(context.format());
    if context.format() != Format::Table {
        return Ok(output.rows(found)?);
    }
    for Finding { severity, check, subject, message, evidence, fix } in &found {
        let word = match severity {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
        };
        output.text(&format!("{word:<8} {check:<20} {}: {}\n", printable(subject), printable(message)))?;
        let more = [("seen", evidence), ("fix", fix)];
        for (what, text) in more.into_iter().filter_map(|(what, text)| Some((what, text.as_ref()?))) {
            output.text(&format!("{:<8} {what}: {}\n", "", printable(text)))?;
        }
    }
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    output.text(&format!("{errors} errors, {warnings} warnings, {} findings in all\n", found.len()))?;
    Ok(output.finish()?)
}
