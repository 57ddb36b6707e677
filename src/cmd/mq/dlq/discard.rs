//! Dead letters out of sight.

use std::process::ExitCode;

use serde::Serialize;
use utoipa::ToSchema;

use super::filter::Chosen;
use super::read::{Reader, Span};
use super::state::{Mark, State};
use crate::cmd::confirm::Change;
use crate::cmd::{Context, Usage, journal};
use crate::mq::rocketmq::RocketMq;

/// Letters noted between two writes that outlive the machine.
const TOGETHER: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) chosen: Chosen,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(in crate::cmd) struct Summary {
    group: String,
    matched: u64,
    discarded: u64,
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    let Args { chosen, change } = args;
    if change.reason.is_none() && !change.dry_run {
        return Err(
            Usage("say why with --reason: a discarded letter is an effect that never happens".to_owned()).into()
        );
    }
    let (data_dir, group) = (&context.config.data_dir, &chosen.group);
    let span = chosen.span(mq).await?;
    let mut state = if change.dry_run { State::open(data_dir, group)? } else { State::lock(data_dir, group)? };
    let now_ms = context.clock.now_ms();
    let matched = walk(mq, chosen, &span, &mut state, now_ms, false).await?;
    let mut discarded = 0;
    if matched > 0 && change.approved(&format!("discard {matched} dead letters of {group}"))? {
        let what = super::What { group, filter: &chosen.filter, letters: matched };
        journal::record(context, "mq dlq discard", change.reason.as_deref(), &what)?;
        discarded = walk(mq, chosen, &span, &mut state, now_ms, true).await?;
    }
    context.output().rows([Summary { group: group.clone(), matched, discarded }])?;
    Ok(ExitCode::SUCCESS)
}

/// Counts the letters, and notes them if that is wanted.
async fn walk(
    mq: &RocketMq,
    chosen: &Chosen,
    span: &Span,
    state: &mut State,
    now_ms: i64,
    note: bool,
) -> anyhow::Result<u64> {
    let mut reader = Reader::new(mq, &chosen.group, span).await?;
    let mut named = chosen.named();
    let mut count = 0;
    while let Some(letter) = reader.next().await? {
        named.found(&letter);
        if !chosen.filter.takes(&letter, now_ms) || !state.is_open(&letter) {
            continue;
        }
        count += 1;
        if note {
            state.note(&letter, Mark::Discarded, now_ms, None)?;
            if count % TOGETHER == 0 {
                state.sync()?;
            }
        }
    }
    named.none_missing()?;
    state.sync()?;
    Ok(count)
}
