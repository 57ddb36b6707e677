//! `ruyi worker backlog`: watches how far consumer groups are behind.

use std::collections::HashMap;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;

use super::Listen;
use crate::alert::Alert;
use crate::cmd::{Context, WithHelp};
use crate::config::Config;
use crate::delivery::Poster;
use crate::domain::event::Group;
use crate::http::{self, App, Limits, ReadyCheck};
use crate::mq::backlog::{Memory, Reading, Verdict};
use crate::mq::rocketmq::RocketMq;
use crate::mq::runtime::MqRuntime;
use crate::process::{self, Scaling};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(5);
/// `--once`: a lag could not be read, and what could be read is not too much.
const UNKNOWN: u8 = 3;

/// Watch how far consumer groups are behind; alert, and ask for more instances
///
/// Reads the lag of each group every `backlog.interval`, from the brokers alone: no database is needed, and any group of
/// any cluster can be watched. A group over its threshold is an alert, and the scale hook is told how many instances
/// are wanted. What cannot be read is unknown, never 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes of --once: 0 no group is over its threshold, 1 one is, 3 unknown.

Examples:
  ruyi worker backlog
  ruyi worker backlog --once --output table
  ruyi worker backlog --group my-group --set backlog.groups.default.threshold=500")]
pub struct Args {
    /// Watch this group; may be repeated [default: backlog.watch, or else the groups of ruyi]
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,

    /// Read once, print it, and end; nobody is alerted or asked
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    listen: Listen,
}

/// Runs the worker.
///
/// # Errors
/// When it does not start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = &context.config;
    let groups = if !args.groups.is_empty() {
        args.groups
    } else if !config.backlog.watch.is_empty() {
        config.backlog.watch.clone()
    } else {
        Group::ALL.iter().map(|group| group.name().to_owned()).collect()
    };
    let help = "set mq.namesrv to the name servers of the cluster";
    let runtime = MqRuntime::start("ruyi-mq")?;
    let cluster = RocketMq::connect(process::cluster_config(config).help(help)?, &runtime).await?;
    let metrics = Arc::new(Metrics::new()?);
    let scaling = Scaling::new(Some(cluster.clone()), groups, config.backlog.clone(), Arc::clone(&metrics));
    let result = if args.once {
        once(context, &scaling).await
    } else {
        let listen = args.listen.listen.or(config.http.worker);
        watch(context, &cluster, &scaling, metrics, listen).await
    };
    cluster.shutdown().await;
    runtime.shutdown(STOP).await;
    result
}

#[derive(Serialize)]
struct Row<'a> {
    group: &'a str,
    lag: Option<i64>,
    threshold: i64,
    over: Option<bool>,
    wanted: Option<i64>,
    queues: i64,
}

async fn once(context: &Context, scaling: &Arc<Scaling>) -> anyhow::Result<ExitCode> {
    let readings = scaling.readings().await;
    let (mut over, mut unknown) = (false, false);
    let mut output = context.output();
    for reading in readings.iter() {
        let limit = context.config.backlog.limit(&reading.group);
        let verdict = reading.judge(&limit);
        over |= verdict.over == Some(true);
        unknown |= verdict.over.is_none();
        let Verdict { lag, over, wanted, queues, .. } = verdict;
        output.row(&Row { group: &reading.group, lag, threshold: limit.threshold, over, wanted, queues })?;
    }
    output.finish()?;
    Ok(match (over, unknown) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(UNKNOWN),
        (false, false) => ExitCode::SUCCESS,
    })
}

#[derive(Serialize)]
struct Watching<'a> {
    worker: &'static str,
    url: &'a str,
    namesrv: &'a str,
}

async fn watch(
    context: &Context,
    cluster: &RocketMq,
    scaling: &Arc<Scaling>,
    metrics: Arc<Metrics>,
    listen: Option<std::net::SocketAddr>,
) -> anyhow::Result<ExitCode> {
    let config = &context.config;
    let shutdown = Shutdown::new();
    let mut url = String::new();
    if let Some(addr) = listen {
        let bound = http::bind_probes(addr).await?;
        url = format!("http://{}", bound.addr());
        let reachable = cluster.clone();
        let broker = ReadyCheck::new("broker", move || {
            let cluster = reachable.clone();
            async move { if cluster.is_reachable().await { Ok(()) } else { Err("no broker answers".to_owned()) } }
        });
        let app = App {
            title: "ruyi worker backlog".to_owned(),
            api: OpenApiRouter::new(),
            checks: vec![broker],
            live: Vec::new(),
            metrics,
            limits: Limits::from(&config.http),
            scale: Some(scaling.answer()),
        };
        let serving = shutdown.clone();
        shutdown.run("http", async move { bound.serve(app, &serving).await });
    }
    shutdown.on_signals()?;
    context.output().row(&Watching { worker: "backlog", url: &url, namesrv: &cluster.config().namesrv })?;
    let mut watcher = Watcher::new(context)?;
    while !shutdown.token.is_cancelled() {
        for reading in scaling.readings().await.iter() {
            watcher.look(reading).await;
        }
        shutdown.token.run_until_cancelled(tokio::time::sleep(config.backlog.interval.duration())).await;
    }
    Ok(if shutdown.drain(STOP).await.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the scale hook is told.
#[derive(Serialize)]
struct Ask<'a> {
    group: &'a str,
    /// Null where it is known to be over the threshold, but not by how much.
    lag: Option<i64>,
    wanted: i64,
    queues: i64,
}

struct Watcher<'a> {
    config: &'a Config,
    context: &'a Context,
    poster: Poster,
    memories: HashMap<String, Memory>,
}

impl<'a> Watcher<'a> {
    fn new(context: &'a Context) -> anyhow::Result<Self> {
        let config = &context.config;
        let (timeout, secret) = (config.backlog.hook_timeout.duration(), config.alerts.secret.clone());
        let poster = Poster::new(timeout, secret, context.clock.clone())?;
        Ok(Self { config, context, poster, memories: HashMap::new() })
    }

    async fn look(&mut self, reading: &Reading) {
        let group = reading.group.as_str();
        let limit = self.config.backlog.limit(group);
        let verdict = reading.judge(&limit);
        let now_ms = self.context.clock.now_ms();
        let mut memory = self.memories.remove(group).unwrap_or_default();
        let todo = memory.todo(&verdict, now_ms, self.config.backlog.repeat.ms());
        if verdict.over.is_none() {
            tracing::warn!(group, beyond = verdict.beyond, "lag unknown; `ruyi check backlog` says why");
        } else {
            tracing::debug!(group, lag = verdict.lag, "lag");
        }
        if todo.recovered {
            tracing::info!(group, lag = verdict.lag, "no longer over its threshold");
        }
        let mut told = false;
        if todo.alert {
            let alert = Alert::Backlog {
                consumer_group: group.to_owned(),
                lag: verdict.known,
                threshold: limit.threshold,
                wanted: verdict.wanted.unwrap_or(1),
                alert_time: now_ms,
            };
            told = self.tell(&alert).await;
        }
        let mut asked = false;
        if let Some(wanted) = verdict.wanted.filter(|_| todo.hook) {
            asked = self.ask(&Ask { group, lag: verdict.lag, wanted, queues: verdict.queues }).await;
        }
        memory.done(&verdict, told, asked, now_ms);
        self.memories.insert(group.to_owned(), memory);
    }

    async fn tell(&self, alert: &Alert) -> bool {
        alert.log();
        let Some(webhook) = self.config.alerts.webhook() else { return true };
        let result = self.poster.post(webhook, alert).await;
        if let Err(error) = &result {
            tracing::warn!(error, "the alert could not be sent; it is sent again after the next reading");
        }
        result.is_ok()
    }

    /// Calls the hooks that are set; true when all of them took it.
    async fn ask(&self, ask: &Ask<'_>) -> bool {
        let backlog = &self.config.backlog;
        let mut fine = true;
        if !backlog.hook_url.is_empty() {
            fine &= taken("hook_url", ask, self.poster.post(&backlog.hook_url, ask).await);
        }
        if let [program, args @ ..] = backlog.hook_command.as_slice() {
            fine &= taken("hook_command", ask, command(program, args, ask, backlog.hook_timeout.duration()).await);
        }
        fine
    }
}

fn taken(hook: &str, ask: &Ask<'_>, result: Result<(), String>) -> bool {
    match &result {
        Ok(()) => tracing::info!(hook, group = ask.group, wanted = ask.wanted, "scale hook called"),
        Err(error) => tracing::warn!(hook, group = ask.group, wanted = ask.wanted, error, "the scale hook failed"),
    }
    result.is_ok()
}

async fn command(program: &str, args: &[String], ask: &Ask<'_>, timeout: Duration) -> Result<(), String> {
    let mut child = tokio::process::Command::new(program);
    child
        .args(args)
        .env("RUYI_GROUP", ask.group)
        .env("RUYI_LAG", ask.lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string()))
        .env("RUYI_WANTED", ask.wanted.to_string())
        .env("RUYI_QUEUES", ask.queues.to_string())
        .stdin(Stdio::null())
        // Our own results are on stdout.
        .stdout(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(timeout, child.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not done within {} ms", timeout.as_millis())),
    }
}
