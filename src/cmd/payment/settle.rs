//! `ruyi payment settle`: what somebody found out about refunds that are in doubt.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use tabled::Tabled;
use utoipa::ToSchema;

use crate::cmd::confirm::Change;
use crate::cmd::{Context, Failed, Usage, audit, journal};
use crate::db::payments::{self, RefundRow};
use crate::db::{Db, DbError};
use crate::domain::event::Role;
use crate::domain::id::{PaymentId, RefundId};
use crate::domain::money::Money;
use crate::roles::payment::channels::Channels;
use crate::roles::payment::doubt;

/// Arguments of `ruyi payment settle`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Refunds, by their numbers (`ruyi payment get` shows them)
    #[arg(required = true, value_name = "REFUND-ID", value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    /// The money went back
    #[arg(long, required_unless_present = "not_paid", conflicts_with = "not_paid")]
    paid: bool,
    /// The money did not go back, and will not
    #[arg(long)]
    not_paid: bool,
    #[command(flatten)]
    change: Change,
}

/// A refund that was in doubt.
#[derive(Serialize, Tabled, ToSchema)]
#[serde(rename_all = "camelCase")]
#[tabled(rename_all = "UPPERCASE")]
pub(in crate::cmd) struct Ended {
    /// The refund.
    #[tabled(rename = "REFUND")]
    refund_id: RefundId,
    /// Of this payment.
    #[tabled(rename = "PAYMENT")]
    payment_id: PaymentId,
    /// How much.
    amount: Money,
    /// Where it stands: IN_DOUBT with --dry-run.
    status: &'static str,
    /// It is ended; false with --dry-run.
    done: bool,
}

impl From<&RefundRow> for Ended {
    fn from(refund: &RefundRow) -> Self {
        let (refund_id, payment_id) = (RefundId(refund.id), PaymentId(refund.payment_id));
        Self { refund_id, payment_id, amount: refund.amount, status: refund.status.name(), done: false }
    }
}

/// Runs `ruyi payment settle`: 0 all are ended, 1 some are not, each with its reason.
///
/// # Errors
/// The command line, the database, or the journal.
pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    args.change.askable("end doubts about money")?;
    // Whoever reads the journal after a year wants to know on what ground.
    if args.change.reason.is_none() && !args.change.dry_run {
        return Err(Usage("say with --reason what shows that the money went back, or did not".to_owned()).into());
    }
    let db = audit::open_role(context, Role::Payment).await?;
    let ended = settle(context, args, &db).await;
    db.close().await;
    ended
}

async fn settle(context: &Context, args: &Args, db: &Db) -> anyhow::Result<ExitCode> {
    let mut failed = Failed::default();
    let mut open = Vec::new();
    for &id in &args.ids {
        match doubt::in_doubt(find(db, id).await.context("cannot read the refunds")?) {
            Ok(refund) => open.push(refund),
            Err(why) => failed.note(&id.to_string(), &why)?,
        }
    }

    let (what, status) = if args.paid { ("went back", "SUCCESS") } else { ("did not go back", "FAILED") };
    let count = open.len();
    let approved = count > 0 && args.change.approved(&format!("settle that the money of {count} refunds {what}"))?;
    let reason = args.change.reason.as_deref().unwrap_or_default();
    if approved {
        let ids: Vec<String> = open.iter().map(|refund| refund.id.to_string()).collect();
        let entry = serde_json::json!({ "refundIds": ids, "paid": args.paid });
        journal::record(context, "payment settle", Some(reason), &entry)?;
    }

    let channels = Channels::of(&context.config);
    let mut rows = Vec::new();
    for refund in &open {
        let mut row = Ended::from(refund);
        if approved {
            match end(db, &channels, refund.id, args.paid, reason).await.context("cannot write the refunds")? {
                Ok(()) => (row.status, row.done) = (status, true),
                Err(why) => failed.note(&refund.id.to_string(), &why)?,
            }
        }
        rows.push(row);
    }
    context.output().rows(rows)?;
    Ok(failed.code())
}

async fn find(db: &Db, id: i64) -> Result<Option<RefundRow>, DbError> {
    let mut conn = db.read().await?;
    payments::refund(&mut conn, id).await
}

async fn end(
    db: &Db,
    channels: &Channels,
    id: i64,
    is_back: bool,
    reason: &str,
) -> Result<Result<(), String>, DbError> {
    let (channels, reason) = (channels.clone(), reason.to_owned());
    db.write("settle_refund", move |tx| {
        let (channels, reason) = (channels.clone(), reason.clone());
        Box::pin(async move { doubt::end_by_hand(tx, &channels, id, is_back, &reason).await })
    })
    .await
}
