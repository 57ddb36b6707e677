//! `ruyi audit`: the proof on live data, and mending what it finds.

pub(super) mod repair;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::confirm::Change;
use super::{Context, Usage, WithHelp};
use crate::audit::{self, Options, Report, RoleDbs};
use crate::config::{Millis, SecretUrl};
use crate::db::{self, Db, migrate};
use crate::domain::event::Role;
use crate::fault::Faults;
use crate::output::{Format, Output, VERSION};

/// Violations printed per check; the others are counted.
const EVIDENCE: usize = 100;

/// Arguments of `ruyi audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --repair, each violation is shown with what mends it, or with why a tool must not and what a person should do.
Every action looks again before it writes, has its effect once however often it runs, and is written to the journal.

Exit codes: 0 nothing is wrong (with --repair: nothing is left to people), 1 violations, or the audit could not be done.

Examples:
  ruyi audit
  ruyi audit --output json | jq '.violations[]'
  ruyi audit --repair --dry-run
  ruyi audit --repair --reason 'restored the backup of Monday' --yes")]
pub struct Args {
    /// Judge nothing that changed later than this ago [default: audit.settle]
    #[arg(long, value_name = "DURATION")]
    settle: Option<Millis>,

    /// What is still on its way after this is a violation [default: audit.bound]
    #[arg(long, value_name = "DURATION")]
    bound: Option<Millis>,

    /// Mend what can be mended safely, and say of the rest what a person should do
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    change: Change,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    ok: bool,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    row: &'a T,
}

/// Runs `ruyi audit`.
///
/// # Errors
/// The database cannot be read, or the output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = &context.config;
    if !args.repair && (args.change.dry_run || args.change.yes || args.change.reason.is_some()) {
        return Err(Usage("--dry-run, --yes and --reason belong to --repair".to_owned()).into());
    }
    let dbs = open(context).await?;
    let options = Options {
        settle_ms: args.settle.unwrap_or(config.audit.settle).ms(),
        bound_ms: args.bound.unwrap_or(config.audit.bound).ms(),
        parcel_bound_ms: config.audit.parcel_bound.ms(),
        zone: config.statistics.zone(),
        page: config.audit.page,
        evidence: EVIDENCE,
        events_kept_ms: config.retention.sent.ms(),
        data_sync: config.order.data_sync,
    };
    if args.repair {
        let done = repair::run(context, &dbs, options, &args.change).await;
        dbs.close().await;
        return done;
    }
    let report = audit::run(&dbs, &options).await;
    dbs.close().await;
    let report = report.context("cannot read the databases")?;
    print(context.format(), &report)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The databases of all roles, to read.
pub(crate) async fn open(context: &Context) -> anyhow::Result<RoleDbs> {
    let mut open: Vec<(Vec<Role>, Db)> = Vec::new();
    for (url, roles) in context.config.databases(&Role::ALL) {
        open.push((roles, open_one(context, &url).await?));
    }
    RoleDbs::each(|role| {
        let found = open.iter().find(|(roles, _)| roles.contains(&role));
        found.map(|(_, db)| db.clone()).context("a role has no database")
    })
}

/// The database of one role.
pub(super) async fn open_role(context: &Context, role: Role) -> anyhow::Result<Db> {
    let (url, _) = context.config.databases(&[role]).into_iter().next().context("the role has no database")?;
    open_one(context, &url).await
}

pub(super) async fn open_one(context: &Context, url: &SecretUrl) -> anyhow::Result<Db> {
    let shown = url.masked();
    let file = url.expose().strip_prefix("sqlite://").and_then(|rest| rest.split('?').next());
    if let Some(file) = file.filter(|file| !Path::new(file).exists()) {
        return Err(anyhow::anyhow!("there is no database file {file}"))
            .help("name the right one with database.url or data_dir; the first start of a role, or `ruyi db migrate`, makes one");
    }
    let missing = migrate::pending(url.expose()).await.with_context(|| format!("cannot read {shown}"))?;
    if !missing.is_empty() {
        let problem = anyhow::anyhow!("{shown} lacks {} steps of the schema", missing.len());
        return Err(problem).help("run `ruyi db migrate`, or name the right database with database.url");
    }
    let options = db::Options {
        url: url.expose().to_owned(),
        max_connections: 2,
        clock: context.clock.clone(),
        faults: Faults::none(),
    };
    Db::open(&options).await.with_context(|| format!("cannot open {shown}"))
}

fn print(format: Format, report: &Report) -> anyhow::Result<()> {
    match format {
        Format::Table => {
            Output::stdout(format).rows(&report.checks)?;
            for part in [Part::Violations, Part::Warnings] {
                part.print(report)?;
            }
        }
        Format::Json => {
            let document = Document { version: VERSION, ok: report.is_clean(), report };
            let mut output = Output::stdout(Format::Table);
            output.text(&format!("{}\n", serde_json::to_string(&document)?))?;
            output.finish()?;
        }
        Format::Jsonl => {
            let mut output = Output::stdout(format);
            for row in &report.checks {
                output.row(&Line { kind: "check", row })?;
            }
            for row in &report.violations {
                output.row(&Line { kind: "violation", row })?;
            }
            for row in &report.warnings {
                output.row(&Line { kind: "warning", row })?;
            }
            output.finish()?;
        }
    }
    Ok(())
}

enum Part {
    Violations,
    Warnings,
}

impl Part {
    fn print(&self, report: &Report) -> anyhow::Result<()> {
        let mut output = Output::stdout(Format::Table);
        match self {
            Self::Violations if !report.violations.is_empty() => {
                output.text("\n")?;
                output.rows(&report.violations)?;
            }
            Self::Warnings if !report.warnings.is_empty() => {
                output.text("\n")?;
                output.rows(&report.warnings)?;
            }
            _ => output.finish()?,
        }
        Ok(())
    }
}
