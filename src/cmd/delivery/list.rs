//! The list of calls.

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use utoipa::ToSchema;

use super::Which;
use crate::cmd::Context;
use crate::cmd::journal::rfc3339;
use crate::cmd::parts::{Newest, Part, close, open};
use crate::db::delivery::log::Logged;
use crate::delivery::Providers;

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
    /// pending, done, dead (given up), refused, canceled or unsent.
    pub state: &'static str,
    /// Idempotency key.
    pub reference: String,
    /// The order that it is about; 0: none.
    pub order: String,
    /// Host and port that it goes to now; where it went stands at each attempt.
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
    pub(super) fn of(call: &Logged, roles: &str, providers: &Providers) -> Self {
        Self {
            id: call.id.to_string(),
            kind: call.kind.name(),
            state: call.status.name(),
            reference: call.reference.clone(),
            order: call.order().to_string(),
            target: providers.target(call.kind, &call.url, &call.named).to_string(),
            attempts: call.attempts,
            created: rfc3339(call.created_at),
            due: call.next_at.map(rfc3339),
            error: call.last_error.clone(),
            roles: roles.to_owned(),
        }
    }
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let parts = open(context, args.which.role).await?;
    let done = list(context, args, &parts).await;
    close(&parts).await;
    done
}

async fn list(context: &Context, args: &Args, parts: &[Part]) -> anyhow::Result<ExitCode> {
    let providers = Providers::of(&context.config);
    let filter = args.which.filter(context.clock.now_ms(), &providers);
    let mut newest: Newest<'_, Logged> = Newest::new(parts, filter, args.before.unwrap_or(i64::MAX));
    let mut output = context.output();
    let (mut left, mut last) = (args.limit, 0);
    while let Some((index, call)) = newest.next().await? {
        if left == 0 {
            writeln!(std::io::stderr(), "there are more than {}: go on with --before {last}", args.limit)?;
            break;
        }
        left -= 1;
        last = call.id;
        let roles = parts.get(index).map_or("", |part| part.roles.as_str());
        output.row(&Row::of(&call, roles, &providers))?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}
