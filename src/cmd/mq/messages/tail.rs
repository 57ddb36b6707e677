//! Following a topic.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::filter::Filter;
use super::row::Row;
use crate::cmd::Context;
use crate::cmd::mq::offsets::{Position, plan};
use crate::config::Millis;
use crate::mq::message::QueueId;
use crate::mq::operate::{Page, StoredMessage};
use crate::mq::rocketmq::{MqError, RocketMq};
use crate::output::{Format, Output};

/// Messages asked for at once.
const PAGE: i32 = 64;
/// The pause when no queue had anything.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a broker that did not answer is left alone.
const AWAY: Duration = Duration::from_secs(2);
/// How often brokers and queues are looked up again.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic as it is called on the broker
    topic: String,
    /// From there: end, start, @-10m, -N messages in each queue
    #[arg(long, value_name = "POSITION", default_value = "end", allow_hyphen_values = true)]
    from: Position,
    /// What came in the last so long, and all that follows: 10m is --from @-10m
    #[arg(long, value_name = "DURATION", conflicts_with = "from")]
    since: Option<Millis>,
    /// Stop after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    filter: Filter,
}

/// Follows until it is told to stop, or has shown enough. A broker that goes away is told on stderr, and waited for.
pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    plan::existing_topic(mq, &args.topic).await?;
    let stop = told_to_stop()?;
    let from = args.since.map_or(args.from, |since| Position::Ago(since.ms()));
    let queues = plan::positions(mq, &args.topic, from, context.clock.now_ms()).await?.into_iter().collect();
    let mut follower = Follower {
        mq,
        topic: &args.topic,
        addrs: mq.master_addrs().await?,
        looked: Instant::now(),
        queues,
        away: HashMap::new(),
    };
    let mut shown = Shown { output: context.output(), format: context.format(), left: args.limit.unwrap_or(u64::MAX) };
    while shown.left > 0 && !stop.is_cancelled() {
        follower.look_again().await?;
        if follower.round(&stop, &args.filter, &mut shown).await? {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    shown.output.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C and SIGTERM are how it ends, so nothing is said about them.
fn told_to_stop() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

/// What is printed, as soon as it is there.
struct Shown {
    output: Output,
    format: Format,
    left: u64,
}

impl Shown {
    fn message(&mut self, message: &StoredMessage) -> anyhow::Result<()> {
        let row = Row::of(message);
        match self.format {
            // A table is written at its end; this has none.
            Format::Table => self.output.text(&row.line())?,
            Format::Json | Format::Jsonl => self.output.row(&row)?,
        }
        self.output.flush()?;
        self.left -= 1;
        Ok(())
    }
}

struct Follower<'a> {
    mq: &'a RocketMq,
    topic: &'a str,
    addrs: BTreeMap<String, String>,
    looked: Instant,
    queues: BTreeMap<QueueId, i64>,
    /// Brokers that did not answer, and when to ask again.
    away: HashMap<String, Instant>,
}

impl Follower<'_> {
    /// Queues and brokers that have come up since are followed from their first message: they are new.
    async fn look_again(&mut self) -> anyhow::Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if let Ok(addrs) = self.mq.master_addrs().await {
            self.addrs.extend(addrs);
        }
        // While a broker is away there is no whole answer; what is known goes on.
        if let Ok((ranges, _)) = self.mq.queue_ranges(self.topic).await {
            for range in ranges {
                self.queues.entry(range.queue).or_insert(range.min);
            }
        }
        Ok(())
    }

    /// One look into each queue; true when something was there.
    async fn round(&mut self, stop: &CancellationToken, filter: &Filter, shown: &mut Shown) -> anyhow::Result<bool> {
        let mut came = false;
        for (queue, offset) in &mut self.queues {
            if self.away.get(&queue.broker).is_some_and(|until| Instant::now() < *until) {
                continue;
            }
            let read = async {
                let addr = self.addrs.get(&queue.broker).ok_or(MqError::NoBroker)?;
                self.mq.read_queue(addr, queue, *offset, PAGE).await
            };
            let page = tokio::select! {
                () = stop.cancelled() => return Ok(false),
                page = read => page,
            };
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    if self.away.insert(queue.broker.clone(), Instant::now() + AWAY).is_none() {
                        writeln!(
                            std::io::stderr(),
                            "broker {} does not answer, waiting for it: {error}",
                            queue.broker
                        )?;
                    }
                    continue;
                }
            };
            if self.away.remove(&queue.broker).is_some() {
                writeln!(std::io::stderr(), "broker {} answers again", queue.broker)?;
            }
            came |= !page.messages.is_empty();
            for message in page.messages.iter().filter(|message| filter.takes(message)) {
                if shown.left > 0 {
                    shown.message(message)?;
                }
            }
            if let Some(lost) = next(&page, offset) {
                writeln!(std::io::stderr(), "queue {}:{} {lost}", queue.broker, queue.queue)?;
            }
        }
        Ok(came)
    }
}

/// Goes on behind the page; tells when the queue is not what it was.
fn next(page: &Page, offset: &mut i64) -> Option<String> {
    let before = std::mem::replace(offset, page.next);
    if page.next < before {
        return Some(format!("begins anew at {}: it had {before} before", page.next));
    }
    (page.messages.is_empty() && page.next > before)
        .then(|| format!("goes on at {}: what lay from {before} on is gone", page.next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_was_emptied_is_followed_from_where_it_is() {
        let page = |next| Page { messages: Vec::new(), next, is_end: true };
        let mut offset = 7;
        assert_eq!(next(&page(7), &mut offset), None);
        assert!(next(&page(0), &mut offset).is_some_and(|said| said.contains("anew")));
        assert_eq!(offset, 0);
        assert!(next(&page(9), &mut offset).is_some_and(|said| said.contains("gone")));
        assert_eq!(offset, 9);
    }
}
