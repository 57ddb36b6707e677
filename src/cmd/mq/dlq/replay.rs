//! Giving dead letters to the group that failed: paced, watched, and going on where it was interrupted.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::filter::Chosen;
use super::letter::{Letter, LetterId, REPLAYS, Reader, Span, one};
use super::state::{Mark, State};
use crate::cmd::Context;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::progress;
use crate::mq::message::{Delay, Outgoing};
use crate::mq::rocketmq::{RETRY_PREFIX, RocketMq};
use crate::shutdown::Shutdown;

/// Letters sent together, and the pause between two such rounds at full rate.
const ROUNDS_PER_SECOND: u32 = 20;
/// How long the rate takes to grow to what was asked for.
const RAMP: Duration = Duration::from_secs(10);
/// How often it is looked whether letters come back.
const LOOK: Duration = Duration::from_secs(1);
/// Letters that must have been sent before a share of failures means anything.
const ENOUGH: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Messages per second at most; the first ten seconds are slower
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rps: u32,
    /// Stop when more than so many percent of the replayed came back
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = clap::value_parser!(u8).range(0..=100))]
    max_fail: u8,
    /// Refuse letters that were replayed so often already
    #[arg(long, value_name = "N", default_value = "3")]
    max_replays: u32,
    /// Oldest failure first, so that the letters of a key come in their order
    #[arg(long)]
    in_order: bool,
    /// How the group is reached
    #[arg(long, value_enum, default_value = "auto")]
    via: Via,
    #[command(flatten)]
    change: Change,
}

impl std::ops::Deref for Args {
    type Target = Chosen;

    fn deref(&self) -> &Chosen {
        &self.chosen
    }
}

/// The way back to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    /// The group's retry topic; the topic of origin on ruyi's embedded broker, which has no way to send to a retry topic
    Auto,
    /// `%RETRY%<group>`: only this group sees it
    Retry,
    /// The topic that it came from: every group of the topic sees it, and those of ruyi drop what they have handled
    Topic,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    group: String,
    matched: u64,
    sent: u64,
    failed: u64,
    refused_replays: u64,
    refused_age: u64,
    refused_origin: u64,
    came_back: u64,
    stopped: Option<String>,
}

impl Summary {
    fn code(&self) -> ExitCode {
        let clean = self.failed + self.refused_replays + self.refused_age + self.refused_origin == 0;
        if clean && self.stopped.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Why a letter is not replayed.
enum Refused {
    Replays,
    Age,
    Origin,
}

struct Run<'a> {
    context: &'a Context,
    mq: &'a RocketMq,
    args: &'a Args,
    retry_topic: Option<String>,
    state: State,
    summary: Summary,
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    let span = Span::all(mq, &args.group).await?;
    let retry_topic = (by_retry(mq, args.via).await?).then(|| format!("{RETRY_PREFIX}{}", args.group));
    let state = State::open(&context.config.data_dir, &args.group)?;
    let summary = Summary { group: args.group.clone(), ..Summary::default() };
    let mut run = Run { context, mq, args, retry_topic, state, summary };
    let due = run.due(&span).await?;
    let what = format!("replay {} dead letters to {}", due.len(), args.group);
    if !due.is_empty() && args.change.approved(&what)? {
        let what = (&args.group, format!("{:?}", args.filter), due.len());
        journal::record(context, "mq dlq replay", args.change.reason.as_deref(), &what)?;
        run.send(&span, due).await?;
        run.state.sync()?;
    }
    let code = run.summary.code();
    context.output().rows([run.summary])?;
    Ok(code)
}

/// The group is reached by its retry topic.
async fn by_retry(mq: &RocketMq, via: Via) -> anyhow::Result<bool> {
    match via {
        Via::Retry => Ok(true),
        Via::Topic => Ok(false),
        Via::Auto => Ok(mq.brokers().await?.iter().all(|broker| broker.name != EMBEDDED)),
    }
}

/// Name of the embedded broker.
const EMBEDDED: &str = "ruyi";

impl Run<'_> {
    /// The letters to send: only where they lie, so that a million of them fit into memory.
    async fn due(&mut self, span: &Span) -> anyhow::Result<Vec<LetterId>> {
        let now_ms = self.context.clock.now_ms();
        let mut reader = Reader::new(self.mq, &self.args.group, span).await?;
        let mut due = Vec::new();
        while let Some(letter) = reader.next().await? {
            if !self.args.takes_open(&letter, &self.state, now_ms) {
                continue;
            }
            self.summary.matched += 1;
            match self.refuses(&letter, now_ms) {
                None => due.push((letter.failed_ms(), letter.id)),
                Some(Refused::Replays) => self.summary.refused_replays += 1,
                Some(Refused::Age) => self.summary.refused_age += 1,
                Some(Refused::Origin) => self.summary.refused_origin += 1,
            }
        }
        if self.args.in_order {
            due.sort();
        }
        Ok(due.into_iter().map(|(_, id)| id).collect())
    }

    fn refuses(&self, letter: &Letter, now_ms: i64) -> Option<Refused> {
        if letter.replays() >= self.args.max_replays {
            return Some(Refused::Replays);
        }
        // Older than what the inbox remembers: its effects might happen a second time.
        if now_ms - letter.message.born_ms > self.context.config.retention.inbox.ms() {
            return Some(Refused::Age);
        }
        (self.retry_topic.is_none() && letter.origin().is_none()).then_some(Refused::Origin)
    }

    async fn send(&mut self, span: &Span, due: Vec<LetterId>) -> anyhow::Result<()> {
        let shutdown = Shutdown::new();
        shutdown.on_signals()?;
        let bar = progress(due.len() as u64, "replaying");
        let started = Instant::now();
        let (mut looked, mut tail) = (started, tail_of(span));
        // Rounds of letters, so that 2,000 a second are even and not 2,000 timers.
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            if shutdown.token.is_cancelled() {
                self.summary.stopped = Some("interrupted: run it again to go on".to_owned());
                break;
            }
            let round = round_size(self.args.rps, started.elapsed()).min(rest.len());
            let (now, later) = rest.split_at(round);
            let due_at = Instant::now() + pause(self.args.rps, started.elapsed(), round);
            self.send_round(now).await?;
            bar.inc(now.len() as u64);
            rest = later;
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look_back(&mut tail).await?;
                if self.fails_too_often() {
                    let back = self.summary.came_back;
                    self.summary.stopped =
                        Some(format!("{back} came back: more than --max-fail {}", self.args.max_fail));
                    break;
                }
            }
            tokio::time::sleep_until(due_at).await;
        }
        bar.finish_and_clear();
        if self.summary.stopped.is_none() {
            self.look_back(&mut tail).await?;
        }
        Ok(())
    }

    async fn send_round(&mut self, round: &[LetterId]) -> anyhow::Result<()> {
        let mut letters = Vec::with_capacity(round.len());
        for id in round {
            letters.push(one(self.mq, &self.args.group, id).await?);
        }
        let messages: Vec<Outgoing> = letters.iter().map(|letter| self.outgoing(letter)).collect();
        let now_ms = self.context.clock.now_ms();
        for (letter, result) in letters.iter().zip(self.mq.publish(&messages).await) {
            match result {
                Ok(()) => {
                    self.state.note(letter, Mark::Replayed, now_ms, None)?;
                    self.summary.sent += 1;
                }
                Err(error) => {
                    self.summary.failed += 1;
                    writeln!(std::io::stderr(), "{}: {error}", letter.id)?;
                }
            }
        }
        Ok(())
    }

    /// The letter as it is, with its event id and all that its producer gave it, and one replay more.
    fn outgoing(&self, letter: &Letter) -> Outgoing {
        let mut properties = letter.message.properties.clone();
        properties.retain(|(name, _)| name != REPLAYS);
        properties.push((REPLAYS.to_owned(), (letter.replays() + 1).to_string()));
        if let (Some(origin), None) = (letter.origin(), letter.message.property("dlqOriginTopic")) {
            properties.push(("dlqOriginTopic".to_owned(), origin.to_owned()));
        }
        let topic = self.retry_topic.clone().or_else(|| letter.origin().map(str::to_owned)).unwrap_or_default();
        let body = match self.state.edited(letter) {
            Some(edited) => edited.as_bytes().to_vec().into(),
            None => letter.message.body.clone(),
        };
        let (tag, key) = (letter.message.tag.clone(), letter.message.key.clone());
        Outgoing { topic, tag, key, body, properties, delay: Delay::None }
    }

    /// Counts letters that died again since the last look.
    async fn look_back(&mut self, tail: &mut Span) -> anyhow::Result<()> {
        let all = Span::all(self.mq, &self.args.group).await?;
        for (queue, (_, end)) in &all.queues {
            tail.queues.entry(queue.clone()).or_insert((*end, *end)).1 = *end;
        }
        let mut reader = Reader::new(self.mq, &self.args.group, tail).await?;
        while let Some(letter) = reader.next().await? {
            if letter.replays() > 0 {
                self.summary.came_back += 1;
            }
        }
        for (from, to) in tail.queues.values_mut() {
            *from = *to;
        }
        Ok(())
    }

    fn fails_too_often(&self) -> bool {
        let Summary { sent, came_back, .. } = self.summary;
        sent >= ENOUGH && came_back * 100 > sent * u64::from(self.args.max_fail)
    }
}

/// The end of each queue: what comes from now on.
fn tail_of(span: &Span) -> Span {
    Span { queues: span.queues.iter().map(|(queue, (_, to))| (queue.clone(), (*to, *to))).collect() }
}

/// The rate that applies after so much time: a tenth at first, all of it after the ramp.
fn rate(rps: u32, elapsed: Duration) -> f64 {
    let share = (elapsed.as_secs_f64() / RAMP.as_secs_f64()).min(1.0);
    f64::from(rps) * (0.1 + 0.9 * share)
}

/// Letters in one round.
fn round_size(rps: u32, elapsed: Duration) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let size = (rate(rps, elapsed) / f64::from(ROUNDS_PER_SECOND)).ceil() as usize;
    size.max(1)
}

/// How long a round of `size` letters may take at the rate that applies.
#[expect(clippy::cast_precision_loss, reason = "a few hundred")]
fn pause(rps: u32, elapsed: Duration, size: usize) -> Duration {
    Duration::from_secs_f64(size as f64 / rate(rps, elapsed).max(0.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_ramps_up_and_then_holds() {
        let per_second = |rps, after| {
            let elapsed = Duration::from_secs(after);
            #[expect(clippy::cast_precision_loss, reason = "a test")]
            let size = round_size(rps, elapsed) as f64;
            size / pause(rps, elapsed, round_size(rps, elapsed)).as_secs_f64()
        };
        for rps in [1, 100, 2_000, 100_000] {
            assert!((per_second(rps, 0) - f64::from(rps) * 0.1).abs() < f64::from(rps) * 0.01 + 0.01, "{rps}");
            assert!((per_second(rps, 60) - f64::from(rps)).abs() < f64::from(rps) * 0.01, "{rps}");
        }
        assert_eq!(round_size(1, Duration::ZERO), 1);
        assert_eq!(round_size(2_000, Duration::from_secs(60)), 100);
    }
}
