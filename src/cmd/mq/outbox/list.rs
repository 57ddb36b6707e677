//! The send log.

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use utoipa::ToSchema;

use crate::cmd::Context;
use crate::cmd::journal::rfc3339;
use crate::cmd::parts::{self, Newest, Part, Since};
use crate::db::outbox::log::{Filter, Logged};
use crate::db::outbox::{HELD, Status};
use crate::domain::event::Role;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only rows that stand so: pending, sent, failed or canceled
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<Status>,
    /// Only what was written since then: 2h, @2024-01-15T08:00
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only this event
    #[arg(long, value_name = "EVENT", value_parser = super::event)]
    event: Option<String>,
    /// Only of this business key: an order, a SKU
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// So many at most, the newest
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only the database of this role
    #[arg(long, value_name = "ROLE", value_parser = parts::role)]
    role: Option<Role>,
}

pub(super) fn status(text: &str) -> Result<Status, String> {
    Status::from_name(text).ok_or_else(|| "say pending, sent, failed or canceled".to_owned())
}

/// A row of the send log.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row<'a> {
    /// Id of the event.
    event_id: &'a str,
    /// The event, or `%DLQ%<group>`.
    event: &'a str,
    /// Business key.
    key: &'a str,
    /// pending, sent, failed (given up) or canceled.
    status: &'static str,
    /// Sends that failed.
    attempts: i64,
    /// When it was written.
    created: String,
    /// When the broker had it.
    sent: Option<String>,
    /// When it is tried next; "when a broker is there" while it waits for one.
    due: Option<String>,
    /// Why it was not sent.
    error: Option<&'a str>,
    /// The roles whose database this is.
    roles: &'a str,
}

impl<'a> Row<'a> {
    fn of(row: &'a Logged, roles: &'a str) -> Self {
        let due = |at_ms| if at_ms == HELD { "when a broker is there".to_owned() } else { rfc3339(at_ms) };
        Self {
            event_id: &row.event_id,
            event: &row.topic,
            key: &row.key,
            status: row.status.name(),
            attempts: row.attempts,
            created: rfc3339(row.created_at),
            sent: row.sent_at.map(rfc3339),
            due: row.next_at.map(due),
            error: row.last_error.as_deref(),
            roles,
        }
    }
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let open = parts::open(context, args.role).await?;
    let done = list(context, args, &open).await;
    parts::close(&open).await;
    done
}

async fn list(context: &Context, args: &Args, parts: &[Part]) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        status: args.status,
        since_ms: args.since.map(|since| since.at_ms(context.clock.now_ms())),
        topic: args.event.clone(),
        key: args.key.clone(),
        from_id: None,
    };
    let mut newest: Newest<'_, Logged> = Newest::new(parts, filter, i64::MAX);
    let mut output = context.output();
    let mut left = args.limit;
    while let Some((index, row)) = newest.next().await? {
        if left == 0 {
            writeln!(std::io::stderr(), "there are more than {}: say --limit, or --since", args.limit)?;
            break;
        }
        left -= 1;
        let roles = parts.get(index).map_or("", |part| part.roles.as_str());
        output.row(&Row::of(&row, roles))?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
