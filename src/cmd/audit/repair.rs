//! `ruyi audit --repair`: what is to be done about each violation, and doing it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::audit::repair::{Mended, Plan, Repair};
use crate::audit::{self, Options, Report, RoleDbs, Violation};
use crate::cmd::confirm::Change;
use crate::cmd::{Context, Failed, journal};

/// Violations of a check that are mended in one run: more take another.
const AT_ONCE: usize = 10_000;

/// A violation, and what became of it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row {
    check: String,
    /// Order, SKU, user, event.
    key: String,
    /// What was read.
    evidence: String,
    /// What mends it; null where a tool must not.
    action: Option<String>,
    /// `would mend`, `mended`, `left` (to a person: why, and what to do), `healed` (by itself, meanwhile), `failed`.
    result: &'static str,
    /// What was done in particular, or why it was left.
    detail: Option<String>,
}

impl Row {
    fn new(violation: &Violation, plan: &Plan) -> Self {
        let (action, result, detail) = match plan {
            Plan::Mend(action) => (Some(action.describe()), "would mend", None),
            Plan::Leave(why) => (None, "left", Some(why.clone())),
            Plan::Healed => (None, "healed", None),
        };
        let Violation { check, key, evidence, .. } = violation;
        Self { check: (*check).to_owned(), key: key.clone(), evidence: evidence.clone(), action, result, detail }
    }

    fn end(&mut self, result: &'static str, detail: Option<String>) {
        self.result = result;
        self.detail = detail.filter(|text| !text.is_empty());
    }
}

/// Audits, plans, and, where that is wanted, mends.
///
/// # Errors
/// The databases cannot be read; nobody said yes.
pub(super) async fn run(
    context: &Context,
    dbs: &RoleDbs,
    options: Options,
    change: &Change,
) -> anyhow::Result<ExitCode> {
    let report = audit::run(dbs, &Options { evidence: AT_ONCE, ..options.clone() }).await;
    let report = report.context("cannot read the databases")?;
    warn_of_more(&report)?;
    let mut violations = report.violations;
    Repair::sort(&mut violations);
    let mut repair = Repair::new(dbs, &options);
    let mut plans = Vec::with_capacity(violations.len());
    for violation in &violations {
        plans.push(repair.plan(violation).await.context("cannot read the databases")?);
    }
    let count = |wanted: fn(&Plan) -> bool| plans.iter().filter(|plan| wanted(plan)).count();
    let (mend, leave) = (count(|plan| matches!(plan, Plan::Mend(_))), count(|plan| matches!(plan, Plan::Leave(_))));
    let mut rows: Vec<Row> = violations.iter().zip(&plans).map(|(violation, plan)| Row::new(violation, plan)).collect();
    let go = mend > 0 && change.approved(&format!("mend {mend} violations, and leave {leave} to people"))?;
    let mut failed = Failed::default();
    if go {
        journal::record(context, "audit --repair", change.reason.as_deref(), &rows)?;
        // As they are now: an earlier action, or the roles, may have mended some.
        for (violation, row) in violations.iter().zip(&mut rows) {
            if row.result != "would mend" {
                continue;
            }
            match mend_one(&mut repair, violation).await {
                Ok(Mended::Done(detail)) => row.end("mended", Some(detail)),
                Ok(Mended::Healed) => row.end("healed", None),
                Ok(Mended::Left(why)) => row.end("left", Some(why)),
                Err(error) => {
                    failed.note(&format!("{} {}", violation.check, violation.key), &error)?;
                    row.end("failed", Some(error.to_string()));
                }
            }
        }
    }
    print(context, &rows)?;
    let open = rows.iter().any(|row| row.result == "left" || row.result == "failed");
    // A question that was answered with no leaves everything as it was.
    let undone = !go && !change.dry_run && mend > 0;
    Ok(if open || undone { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn mend_one(repair: &mut Repair<'_>, violation: &Violation) -> Result<Mended, crate::db::DbError> {
    match repair.plan(violation).await? {
        Plan::Mend(action) => repair.apply(&action).await,
        Plan::Leave(why) => Ok(Mended::Left(why)),
        Plan::Healed => Ok(Mended::Healed),
    }
}

fn warn_of_more(report: &Report) -> anyhow::Result<()> {
    let found: u64 = report.checks.iter().map(|check| check.violations).sum();
    let more = found.saturating_sub(report.violations.len() as u64);
    if more > 0 {
        writeln!(std::io::stderr(), "{more} violations more than one run mends: run it again")?;
    }
    Ok(())
}

fn print(context: &Context, rows: &[Row]) -> anyhow::Result<()> {
    let mut output = context.output();
    if rows.is_empty() && context.format() == crate::output::Format::Table {
        output.text("nothing is wrong\n")?;
    }
    for row in rows {
        output.row(row)?;
    }
    output.finish()?;
    Ok(())
}
