//! Giving dead letters to the group that failed: paced, watched, and going on where it was interrupted.

mod watch;
mod way;

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use self::watch::Watch;
use self::way::Ways;
use super::filter::Chosen;
use super::letter::{BORN, LETTER, Letter, LetterId, REPLAY_ID, REPLAYS, topic_of};
use super::pace::{self, Pace, Rate};
use super::read::{Reader, Shelf, Span};
use super::state::{Mark, State};
use crate::cmd::Context;
use crate::cmd::confirm::Change;
use crate::cmd::journal;
use crate::cmd::mq::progress;
use crate::config::Millis;
use crate::domain::event::Group;
use crate::mq::left_behind::{BODY_AT, BODY_LEFT};
use crate::mq::message::{COMPRESSED, Delay, Outgoing};
use crate::mq::operate::StoredMessage;
use crate::mq::rocketmq::{MqError, PublishError, RocketMq};
use crate::shutdown::Shutdown;

/// How often it is looked whether letters come back.
const LOOK: Duration = Duration::from_secs(1);
/// Letters that must have been sent before a share of failures means anything.
const ENOUGH: u64 = 20;
/// Name of the embedded broker.
const EMBEDDED: &str = "ruyi";
/// What becomes of a letter whose body is still compressed.
const STAYS: &str = "a copy would not say that it is compressed, so it stays where it is: let its producer send it \
                     anew, or replace the body with `ruyi mq dlq edit --body`; `ruyi mq dlq export` has its bytes";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rate: Rate,
    /// How long the rate takes to grow from a tenth to all of it
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    ramp: Millis,
    /// Stop when more than so many percent of the replayed failed again
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = clap::value_parser!(u8).range(0..=100))]
    max_fail: u8,
    /// How long to look for failures after the last one was sent; a Java consumer gives a message back after 10s
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    watch: Millis,
    /// Refuse letters that were replayed so often already
    #[arg(long, value_name = "N", default_value = "3")]
    max_replays: u32,
    /// Refuse letters of messages that are older: a group may have forgotten that it handled them [default:
    /// retention.inbox]
    #[arg(long, value_name = "DURATION")]
    max_age: Option<Millis>,
    /// Oldest failure first; when a letter cannot be sent, those of its key that follow are held back
    #[arg(long)]
    in_order: bool,
    /// How the group is reached
    #[arg(long, value_enum, default_value = "auto")]
    via: Via,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    pub(super) chosen: Chosen,
}

/// The way back to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    /// The group's retry topic; the topic of origin on ruyi's embedded broker, which has no way to send to a retry topic
    Auto,
    /// `%RETRY%<group>`, or of members that pop (gRPC) `%RETRY%<group>_<topic>`: only this group sees it
    Retry,
    /// The topic that it came from: every group of the topic sees it, and those of ruyi drop what they have handled
    Topic,
}

/// What came of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::cmd) struct Summary {
    group: String,
    /// Letters that the filter takes and that were not replayed or discarded before.
    matched: u64,
    /// Letters that the filter takes and that were replayed or discarded before.
    already: u64,
    /// To be sent: matched, and not refused.
    due: u64,
    sent: u64,
    failed: u64,
    refused_replays: u64,
    refused_age: u64,
    refused_origin: u64,
    /// Those with a body that could not be decompressed, and that nobody could tell from any other on a copy.
    refused_compressed: u64,
    /// Of the sent ones, those that are known to have failed again.
    came_back: u64,
    /// Why it ended early.
    stopped: Option<String>,
}

impl Summary {
    fn code(&self) -> ExitCode {
        let refused = self.refused_replays + self.refused_age + self.refused_origin + self.refused_compressed;
        let clean = self.failed + self.came_back + refused == 0;
        if clean && self.stopped.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What the journal says.
#[derive(Serialize)]
struct What<'a> {
    #[serde(flatten)]
    chosen: super::What<'a>,
    via: &'a str,
    rps: u32,
}

struct Run<'a> {
    context: &'a Context,
    mq: &'a RocketMq,
    args: &'a Args,
    /// None: by the topics of origin.
    ways: Option<Ways<'a>>,
    state: State,
    summary: Summary,
    watch: Watch<'a>,
    /// With `--in-order`: keys that a letter failed of.
    held: HashSet<String>,
}

pub(super) async fn run(context: &Context, mq: &RocketMq, args: &Args) -> anyhow::Result<ExitCode> {
    let group = &args.chosen.group;
    let span = args.chosen.span(mq).await?;
    let ways = if by_retry(mq, args.via).await? { Some(Ways::of(mq, group).await?) } else { None };
    let data_dir = &context.config.data_dir;
    // Who only looks needs no place to write.
    let state = if args.change.dry_run { State::open(data_dir, group)? } else { State::lock(data_dir, group)? };
    let summary = Summary { group: group.clone(), ..Summary::default() };
    let watch = Watch::new(mq, &topic_of(group)).await?;
    let mut run = Run { context, mq, args, ways, state, summary, watch, held: HashSet::new() };
    let due = run.due(&span).await?;
    let what = format!("replay {} dead letters to {group}", due.len());
    if !due.is_empty() && args.change.approved(&what)? {
        let via = if run.ways.is_some() { "the retry topics of the group" } else { "the topics of origin" };
        let chosen = super::What { group, filter: &args.chosen.filter, letters: due.len() as u64 };
        let what = What { chosen, via, rps: args.rate.rps };
        journal::record(context, "mq dlq replay", args.change.reason.as_deref(), &what)?;
        let ended = run.send(&due).await;
        if ended.is_err() {
            run.summary.stopped = Some("an error: run it again to go on".to_owned());
            context.output().rows([run.summary])?;
            return ended.map(|()| ExitCode::FAILURE);
        }
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

/// Why a letter is not replayed.
enum Refused {
    Replays,
    Age,
    Origin,
    /// Why it could not be decompressed.
    Compressed(String),
}

impl Run<'_> {
    /// The letters to send: only where they lie, so that a million of them fit into memory.
    async fn due(&mut self, span: &Span) -> anyhow::Result<Vec<LetterId>> {
        let chosen = &self.args.chosen;
        let now_ms = self.context.clock.now_ms();
        let mut reader = Reader::new(self.mq, &chosen.group, span).await?;
        let mut named = chosen.named();
        let mut due = Vec::new();
        while let Some(letter) = reader.next().await? {
            named.found(&letter);
            if !chosen.filter.takes(&letter, now_ms) {
                continue;
            }
            if !self.state.is_open(&letter) {
                self.summary.already += 1;
                continue;
            }
            self.summary.matched += 1;
            match self.refuses(&letter, now_ms) {
                None => due.push((letter.order_ms(), letter.id)),
                Some(Refused::Replays) => self.summary.refused_replays += 1,
                Some(Refused::Age) => self.summary.refused_age += 1,
                Some(Refused::Origin) => self.summary.refused_origin += 1,
                Some(Refused::Compressed(why)) => {
                    self.summary.refused_compressed += 1;
                    writeln!(std::io::stderr(), "{}: {why}; {STAYS}", letter.id)?;
                }
            }
        }
        named.none_missing()?;
        if self.args.in_order {
            due.sort();
        }
        self.summary.due = due.len() as u64;
        Ok(due.into_iter().map(|(_, id)| id).collect())
    }

    fn refuses(&self, letter: &Letter, now_ms: i64) -> Option<Refused> {
        if let Some(why) = letter.compressed().filter(|_| self.state.edited(letter).is_none()) {
            return Some(Refused::Compressed(why.to_owned()));
        }
        if letter.replays() >= self.args.max_replays {
            return Some(Refused::Replays);
        }
        // Older than what the inbox remembers: its effects might happen a second time.
        if now_ms - letter.born_ms() > self.args.max_age.unwrap_or(self.context.config.retention.inbox).ms() {
            return Some(Refused::Age);
        }
        (self.ways.is_none() && letter.origin().is_none()).then_some(Refused::Origin)
    }

    async fn send(&mut self, due: &[LetterId]) -> anyhow::Result<()> {
        let shutdown = Shutdown::new();
        shutdown.on_signals()?;
        self.warn_if_nobody_is_there().await?;
        let mut shelf = Shelf::new(self.mq, &self.args.chosen.group).await?;
        let bar = progress(due.len() as u64, "replaying");
        let mut pace = Pace::new(self.args.rate, self.args.ramp.duration());
        let mut looked = Instant::now();
        let mut rest = due;
        while !rest.is_empty() && self.summary.stopped.is_none() {
            let size = pace.round().await.min(rest.len());
            if shutdown.token.is_cancelled() {
                self.summary.stopped = Some("interrupted: run it again to go on".to_owned());
                break;
            }
            let (now, later) = rest.split_at(size);
            rest = later;
            self.round(&mut shelf, now).await?;
            bar.inc(now.len() as u64);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look().await?;
            }
        }
        bar.finish_and_clear();
        let sent_all = Instant::now();
        while self.summary.stopped.is_none() && self.summary.came_back < self.summary.sent {
            let waited = sent_all.elapsed() >= self.args.watch.duration() || shutdown.token.is_cancelled();
            self.look().await?;
            if waited {
                break;
            }
            tokio::time::sleep(LOOK.min(self.args.watch.duration())).await;
        }
        Ok(())
    }

    async fn warn_if_nobody_is_there(&self) -> anyhow::Result<()> {
        let group = &self.args.chosen.group;
        if self.mq.members(group).await?.is_empty() {
            let text = "the brokers know of no member that is online (of members behind a proxy in cluster mode they know \
                        nothing): what is replayed waits for one, and nobody can tell whether it fails again";
            writeln!(std::io::stderr(), "{group}: {text}")?;
        }
        Ok(())
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        self.watch.look().await?;
        let (sent, back) = (self.summary.sent, self.watch.back());
        self.summary.came_back = back;
        if sent >= ENOUGH.min(self.summary.due) && back * 100 > sent * u64::from(self.args.max_fail) {
            let limit = self.args.max_fail;
            self.summary.stopped = Some(format!("{back} of {sent} failed again: more than --max-fail {limit} %"));
        }
        Ok(())
    }

    /// Sends some letters, and notes each as soon as a broker has it.
    async fn round(&mut self, shelf: &mut Shelf<'_>, ids: &[LetterId]) -> anyhow::Result<()> {
        let mut letters = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(letter) = shelf.get(id).await? else {
                self.failed(id, &"it is not there any more")?;
                continue;
            };
            if self.held.contains(&letter.message.key) {
                self.failed(id, &"held back: an earlier letter of its key was not sent")?;
                continue;
            }
            match self.whole(letter).await {
                (letter, None) => letters.push(letter),
                (letter, Some(why)) => self.not_sent(&letter, &why)?,
            }
        }
        let mut messages = Vec::with_capacity(letters.len());
        for letter in &letters {
            let topic = match &mut self.ways {
                Some(ways) => ways.back(letter).await?,
                None => letter.origin().map(str::to_owned).unwrap_or_default(),
            };
            if self.ways.is_some() {
                self.watch.follow(&topic).await?;
            }
            messages.push(self.outgoing(letter, topic));
        }
        let before = self.summary.sent;
        let (mut silent, mut unknown) = (false, None);
        let mq = self.mq;
        let mut sends = std::pin::pin!(pace::send(mq, &messages, self.ways.is_some()));
        while let Some(results) = sends.next().await {
            for (index, result) in results {
                let letter = &letters[index];
                match result {
                    Ok(()) => {
                        self.state.note(letter, Mark::Replayed, self.context.clock.now_ms(), None)?;
                        self.watch.sent(letter.id.clone());
                        self.summary.sent += 1;
                    }
                    Err(error) => {
                        silent |= error.is_unanswered();
                        if let PublishError::NoRoute { topic, .. } = &error {
                            unknown = Some(topic.clone());
                        }
                        self.not_sent(letter, &error)?;
                    }
                }
            }
        }
        self.state.sync()?;
        if silent && self.summary.sent == before {
            self.summary.stopped = Some(match unknown {
                // A broker that has just made a topic tells the name servers within half a minute.
                Some(topic) => format!("no name server knows {topic} yet: run it again in half a minute to go on"),
                None => "no broker takes them: run it again to go on".to_owned(),
            });
        }
        Ok(())
    }

    /// The letter with the body of its message, where that was left behind; or why it cannot be had.
    async fn whole(&self, mut letter: Letter) -> (Letter, Option<String>) {
        let Some(left) = letter.left_behind().filter(|_| self.state.edited(&letter).is_none()) else {
            return (letter, None);
        };
        let place = &left.place;
        let why = match self.mq.message_at(place).await {
            Ok(Some(message)) if message.body.is_empty() && left.bytes == 0 => String::from(
                "its message has no body, which RocketMQ cannot carry: give it one with `ruyi mq dlq edit --body`",
            ),
            Ok(Some(StoredMessage { unreadable: Some(why), .. })) => format!("{why}; {STAYS}"),
            Ok(Some(message)) if left.is_of(&message.body) => {
                letter.take_back(message);
                return (letter, None);
            }
            Ok(Some(_)) => format!("what is at {place} now is not its message: the SHA-256 is another one"),
            Ok(None) => format!("its message is not at {place} any more, and the letter has no body"),
            Err(MqError::NoBroker) => {
                format!("its message is at {place}, whose broker no name server knows now: try again when it is back")
            }
            Err(error) => format!("its message at {place} cannot be read: {error}"),
        };
        (letter, Some(why))
    }

    fn not_sent(&mut self, letter: &Letter, why: &(impl std::fmt::Display + ?Sized)) -> anyhow::Result<()> {
        if self.args.in_order && !letter.message.key.is_empty() {
            self.held.insert(letter.message.key.clone());
        }
        self.failed(&letter.id, why)
    }

    fn failed(&mut self, id: &LetterId, why: &(impl std::fmt::Display + ?Sized)) -> anyhow::Result<()> {
        self.summary.failed += 1;
        Ok(writeln!(std::io::stderr(), "{id}: {why}")?)
    }

    /// The letter as it is, with its event id and all that its producer gave it, and one replay more, to this topic.
    fn outgoing(&self, letter: &Letter, topic: String) -> Outgoing {
        let mut properties = letter.message.properties.clone();
        let of_earlier = [REPLAYS, REPLAY_ID, LETTER, BORN, BODY_AT, BODY_LEFT, COMPRESSED];
        properties.retain(|(name, _)| !of_earlier.contains(&name.as_str()));
        properties.push((REPLAYS.to_owned(), (letter.replays() + 1).to_string()));
        properties.push((LETTER.to_owned(), letter.id.to_string()));
        properties.push((BORN.to_owned(), letter.born_ms().to_string()));
        // The inboxes of ruyi know a replay by its name, whatever the clocks say; nobody else asks for it.
        if Group::from_name(&self.args.chosen.group).is_some() {
            properties.push((REPLAY_ID.to_owned(), new_name()));
        }
        // What tells a consumer where it was at first, by the way that it takes.
        let told = if self.ways.is_some() { "RETRY_TOPIC" } else { "dlqOriginTopic" };
        if let (Some(origin), None) = (letter.origin(), letter.message.property(told)) {
            properties.push((told.to_owned(), origin.to_owned()));
        }
        let body = match self.state.edited(letter) {
            Some(edited) => edited.as_bytes().to_vec().into(),
            None => letter.message.body.clone(),
        };
        let (tag, key) = (letter.message.tag.clone(), letter.message.key.clone());
        Outgoing { topic, tag, key, body, properties, delay: Delay::None }
    }
}

/// A name that no other replay has, of whichever letter, by whichever operator. A letter that is sent once more, since
/// nobody knows what became of the first send, is another replay.
#[expect(clippy::disallowed_methods, reason = "a name that nobody else has")]
fn new_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}
