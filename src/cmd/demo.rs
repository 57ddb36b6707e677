//! `ruyi demo`: everything in one process, a thousand orders through it over HTTP, and the proof that all is well; or the
//! same orders through processes that run already.

pub mod cases;
mod coupon;
pub mod drive;
mod gateway;
pub mod outside;
mod pace;
pub mod pulse;
mod report;
pub mod system;
mod timeline;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::config::{Config, Millis};
use crate::shutdown::Shutdown;
use cases::{Cases, End};
use drive::{Driven, Options};
use outside::Outside;
use pulse::Pulse;
use report::Report;
use system::{Audited, System};
use timeline::Moment;

/// The orders that are fed if no others are given.
pub const ORDERS: &str = include_str!("../../examples/orders.jsonl");
/// The coupons of the demo.
pub const COUPONS: &str = include_str!("../../examples/coupons.jsonl");
/// What is sold in the demo.
pub const PRODUCTS: &str = include_str!("../../examples/products.jsonl");

/// Between two looks at what is still on its way, and between two audits.
const AUDIT_PAUSE: Duration = Duration::from_millis(500);
/// Between two lines about progress where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// Arguments of `ruyi demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ruyi demo\n  ruyi demo --orders 5000 --output json\n  ruyi demo --external --patience 120s --set client.order=http://127.0.0.1:8081"
)]
pub struct Args {
    /// How many orders of the built-in kind, or a file of your own (see examples/orders.jsonl) [default: 1,338]
    #[arg(long, value_name = "N|FILE")]
    orders: Option<String>,
    /// Keep the data in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database to use, `sqlite://` or `mysql://` [default: a SQLite file in the data directory]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Feed the roles that run where [client] says, and audit the databases of this configuration, instead of starting
    /// anything; nobody else should be placing orders meanwhile. What channels do not say is found after
    /// payment.query_after (1m by default): be that patient
    #[arg(long, conflicts_with_all = ["data_dir", "database"])]
    external: bool,
    /// Give up when nothing at all has moved for so long; and on a request when no role has answered it for so long
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    patience: Millis,
    /// Orders in work at once, at most: it begins with 8, and takes more while they end faster
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
}

/// Runs the demo. Exit code 1 when an order did not end as it should or the audit found a violation.
///
/// # Errors
/// The system cannot be started, fed or read.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let (cases, count) = load(context, args.orders.as_deref())?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("cannot listen for signals")?;
    let pulse = Pulse::new(args.patience.duration());
    let options = Options { count, concurrency: args.concurrency.into() };
    if args.external {
        let system = System::outside(context).await?;
        return through(context, &context.config, (system, None), &cases, options, &pulse, &shutdown).await;
    }
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("ruyi-demo-").tempdir().context("no temporary directory")?),
    };
    let data_dir = args.data_dir.as_deref().or(temporary.as_ref().map(tempfile::TempDir::path));
    let data_dir = data_dir.context("no data directory")?;
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let outside = Outside::open(context.clock.clone()).await?;
    let config = system::config_in(data_dir, args.database.as_deref(), &outside, context);
    let system = System::start(context, &config).await.context("cannot start the system")?;
    through(context, &config, (system, Some(outside)), &cases, options, &pulse, &shutdown).await
}

/// Puts the orders through the system, audits it when all has come to rest, and reports.
async fn through(
    context: &Context,
    config: &Config,
    (system, outside): (System, Option<Outside>),
    cases: &Cases,
    options: Options,
    pulse: &Pulse,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let result = on(&system, outside.as_ref(), config, cases, options, pulse, &shutdown.token).await;
    let audited = match &result {
        Ok(_) if !shutdown.token.is_cancelled() => settled_audit(&system, config, pulse, &shutdown.token).await,
        _ => Ok(None),
    };
    system.stop().await;
    let (driven, timeline) = result?;
    let report = Report::new(driven, audited?, timeline, shutdown.token.is_cancelled());
    report.print(context.format())?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load(context: &Context, orders: Option<&str>) -> anyhow::Result<(Cases, u64)> {
    let run_id = format!("demo-{}", context.clock.now_ms());
    let number = orders.and_then(|text| text.parse::<u64>().ok());
    let cases = match orders {
        Some(path) if number.is_none() => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            Cases::parse(&text, &run_id)?
        }
        _ => Cases::parse(ORDERS, &run_id)?,
    };
    let count = number.unwrap_or(cases.lines());
    Ok((cases, count))
}

async fn on(
    system: &System,
    outside: Option<&Outside>,
    config: &Config,
    cases: &Cases,
    options: Options,
    pulse: &Pulse,
    stop: &CancellationToken,
) -> anyhow::Result<(Driven, Vec<Moment>)> {
    let api = system.api(config, pulse.patience())?;
    let setting_up = async {
        api.ready().await.context("the system is not ready")?;
        let products = cases::products(PRODUCTS)?;
        drive::set_up(&api, &products, cases.rounds(options.count)).await.context("cannot set products and stock")?;
        drive::set_up_coupons(&api, &cases::coupons(COUPONS)?).await.context("cannot set coupons")?;
        gateway::set_up(&api, outside, pulse).await.context("cannot set the merchant")
    };
    tokio::select! {
        result = setting_up => result?,
        () = stop.cancelled() => return Ok((Driven::default(), Vec::new())),
    }
    let progress = RefCell::new(Progress::new(options.count));
    let driven = drive::drive(&api, outside, pulse, cases, options, stop, |end| {
        progress.borrow_mut().ended(end);
    })
    .await;
    progress.into_inner().bar.finish_and_clear();
    let timeline = match driven.sample {
        Some(id) if !stop.is_cancelled() => timeline::of(&api, id).await?,
        _ => Vec::new(),
    };
    Ok((driven, timeline))
}

/// Waits until all has come to rest, and audits; again while something is found and still moves.
async fn settled_audit(
    system: &System,
    config: &Config,
    pulse: &Pulse,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Audited>> {
    let mut seen = None;
    loop {
        let round = async {
            let on_its_way = system.on_its_way().await?;
            let audited = if on_its_way == 0 || pulse.is_still() { Some(system.audit(config).await?) } else { None };
            anyhow::Ok((on_its_way, audited))
        };
        let over = stop.is_cancelled() || pulse.is_still();
        match round.await {
            Ok((_, Some(audited))) if audited.violations == 0 || over => return Ok(Some(audited)),
            Ok((on_its_way, audited)) => {
                let now = (on_its_way, audited.map(|audited| audited.violations));
                if seen.replace(now) != Some(now) {
                    pulse.beat();
                }
            }
            Err(error) if over => return Err(error.context("cannot audit")),
            // A database that runs elsewhere may be away for a while.
            Err(_) => {}
        }
        tokio::time::sleep(AUDIT_PAUSE).await;
    }
}

/// What shows how far the run is: a bar on a terminal, elsewhere a line from time to time.
struct Progress {
    bar: ProgressBar,
    ends: BTreeMap<String, u64>,
    count: u64,
    ended: u64,
    started: Instant,
    next_line: Option<Instant>,
}

impl Progress {
    fn new(count: u64) -> Self {
        let started = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(count) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} orders, {per_sec}, {eta} left: {msg}");
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let progress = Self { bar, ends: BTreeMap::new(), count, ended: 0, started, next_line: None };
        if is_terminal {
            return progress;
        }
        line(&format!("feeding {count} orders"));
        Self { next_line: Some(started + LINE_PAUSE), ..progress }
    }

    fn ended(&mut self, end: End) {
        *self.ends.entry(end.to_string().to_lowercase()).or_insert(0) += 1;
        let parts: Vec<String> = self.ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
        self.bar.set_message(parts.join(", "));
        self.bar.inc(1);
        self.ended += 1;
        if self.next_line.is_some_and(|at| Instant::now() >= at) {
            self.next_line = Some(Instant::now() + LINE_PAUSE);
            line(&format!("{} of {} orders, about {} s left", self.ended, self.count, self.seconds_left()));
        }
    }

    fn seconds_left(&self) -> u64 {
        self.started.elapsed().as_secs() * (self.count - self.ended) / self.ended.max(1)
    }
}

/// Nothing can be done when stderr is gone.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
