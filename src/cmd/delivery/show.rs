//! One call with its attempts.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cmd::Context;
use crate::cmd::journal::rfc3339;
use crate::cmd::parts::{Part, close, open};
use crate::db::delivery::{self, log};
use crate::delivery::{Providers, mask};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The call
    #[arg(value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    id: i64,
}

/// A call with its attempts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Whole {
    #[serde(flatten)]
    call: super::Row,
    /// Where it goes now, without secrets.
    url: String,
    /// What is sent, without secrets.
    body: String,
    /// Oldest first.
    tried: Vec<Tried>,
}

/// An attempt.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tried {
    /// Which, from 1.
    attempt: i64,
    /// When it began.
    at: String,
    /// Host and port that it went to; none where nothing was sent.
    target: Option<String>,
    /// How long it took.
    took_ms: i64,
    /// HTTP status of the answer.
    status: Option<i64>,
    /// Why it failed.
    error: Option<String>,
    /// What was sent, without secrets.
    request: Option<String>,
    /// What was answered, without secrets.
    answer: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let parts = open(context, None).await?;
    let found = find(args.id, &parts, &Providers::of(&context.config)).await;
    close(&parts).await;
    let whole = found?.with_context(|| format!("there is no call {}: it may have been pruned", args.id))?;
    context.output().rows([whole])?;
    Ok(ExitCode::SUCCESS)
}

async fn find(id: i64, parts: &[Part], providers: &Providers) -> anyhow::Result<Option<Whole>> {
    for part in parts {
        let read = async {
            let mut conn = part.db.read().await?;
            let Some(call) = log::of_ids(&mut conn, vec![id]).await?.pop() else { return Ok(None) };
            let body = delivery::by_ids(&mut conn, vec![id]).await?.pop().map(|call| call.body);
            Ok::<_, crate::db::DbError>(Some((call, body.unwrap_or_default(), log::attempts(&mut conn, id).await?)))
        };
        let found = read.await.with_context(|| format!("cannot read {}", part.shown))?;
        let Some((call, body, tried)) = found else { continue };
        let tried = tried.into_iter().map(|one| Tried {
            attempt: one.attempt,
            at: rfc3339(one.started_at),
            target: one.request.as_deref().and_then(mask::sent_to),
            took_ms: one.duration_ms,
            status: one.http_status,
            error: one.error,
            request: one.request,
            answer: one.answer,
        });
        return Ok(Some(Whole {
            url: providers.shown(call.kind, &call.url, &body),
            body: mask::body(&body),
            tried: tried.collect(),
            call: super::Row::of(&call, &part.roles, providers),
        }));
    }
    Ok(None)
}
