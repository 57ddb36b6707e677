//! The list of calls.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::Which;
use crate::cmd::Context;
use crate::cmd::journal::rfc3339;
use crate::cmd::mq::outbox::{Part, close, open};
use crate::db::delivery::log::{self, Filter, Logged};
use crate::delivery::{Targets, mask};

/// Rows read at once.
const PAGE: i64 = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// So many at most, the newest
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only those recorded before this call: the last id of a list goes on from there
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
}

/// An outgoing call.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Row {
    /// The call.
    pub id: String,
    /// What for.
    pub kind: &'static str,
    /// pending, done, dead (given up), refused or canceled.
    pub state: &'static str,
    /// Idempotency key.
    pub reference: String,
    /// The order that it is about; 0: none.
    pub order: String,
    /// Host and port.
    pub target: String,
    /// Attempts made.
    pub attempts: i64,
    /// When it was recorded.
    pub created: String,
    /// When it is made next.
    pub due: Option<String>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// The roles whose database this is.
    pub roles: String,
}

impl Row {
    pub(super) fn of(call: &Logged, roles: &str) -> Self {
        Self {
            id: call.id.to_string(),
            kind: call.kind.name(),
            state: call.status.name(),
            reference: call.reference.clone(),
            order: call.order_id.to_string(),
            target: Targets::name(&mask::url(call.kind, &call.url)).to_string(),
            attempts: call.attempts,
            created: rfc3339(call.created_at),
            due: call.next_at.map(rfc3339),
            error: call.last_error.clone(),
            roles: roles.to_owned(),
        }
    }
}

/// A database, read page by page from its newest call on.
pub(super) struct Walk<'a> {
    pub part: &'a Part,
    before: i64,
    ahead: VecDeque<Logged>,
    is_end: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(part: &'a Part, before: i64) -> Self {
        Self { part, before, ahead: VecDeque::new(), is_end: false }
    }

    async fn fill(&mut self, filter: &Filter) -> anyhow::Result<()> {
        if self.is_end || !self.ahead.is_empty() {
            return Ok(());
        }
        let read = async {
            let mut conn = self.part.db.read().await?;
            log::newest(&mut conn, filter, self.before, PAGE).await
        };
        let page = read.await.with_context(|| format!("cannot read {}", self.part.shown))?;
        self.is_end = page.last().is_none_or(|last| {
            self.before = last.id;
            page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX)
        });
        self.ahead.extend(page);
        Ok(())
    }
}

/// The next call of all databases, newest first, with the index of its database.
pub(super) async fn next(walks: &mut [Walk<'_>], filter: &Filter) -> anyhow::Result<Option<(usize, Logged)>> {
    for walk in walks.iter_mut() {
        walk.fill(filter).await?;
    }
    // Ids grow with time, over all databases.
    let newest = walks.iter_mut().enumerate().max_by_key(|(_, walk)| walk.ahead.front().map(|call| call.id));
    Ok(newest.and_then(|(index, walk)| Some((index, walk.ahead.pop_front()?))))
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let parts = open(context, args.which.role).await?;
    let done = list(context, args, &parts).await;
    close(&parts).await;
    done
}

async fn list(context: &Context, args: &Args, parts: &[Part]) -> anyhow::Result<ExitCode> {
    let filter = args.which.filter(context.clock.now_ms());
    let mut walks: Vec<Walk<'_>> = parts.iter().map(|part| Walk::new(part, args.before.unwrap_or(i64::MAX))).collect();
    let mut output = context.output();
    let (mut left, mut last) = (args.limit, 0);
    while let Some((index, call)) = next(&mut walks, &filter).await? {
        if left == 0 {
            writeln!(std::io::stderr(), "there are more than {}: go on with --before {last}", args.limit)?;
            break;
        }
        left -= 1;
        last = call.id;
        let roles = parts.get(index).map_or("", |part| part.roles.as_str());
        output.row(&Row::of(&call, roles))?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
