//! From one member of a group to its lanes. A lane that does not go on keeps its own queues waiting and no others.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Permit, Sender};
use tokio::time::MissedTickBehavior;

use super::local::lane_of;
use super::message::{Incoming, QueueId};
use super::rocketmq::GroupConsumer;

/// How long a poll waits for a message.
const POLL: Duration = Duration::from_secs(2);
/// A lane that has taken nothing for so long, while something waited for it, stands: its queues are not asked any more.
/// A busy one takes more often, and its queues are better not paused: going on takes up to a second.
const STANDS: Duration = Duration::from_millis(500);
/// Bytes that may wait for lanes that do not stand; beyond them nothing is asked for.
const WAITING_BYTES: usize = 16 << 20;
/// Bytes of what a lane is handed at once, unless one message has more.
const PART_BYTES: usize = 1 << 20;

type Lane = Sender<Vec<Incoming>>;

/// What waits for room in a lane.
#[derive(Default)]
struct Waiting {
    parts: VecDeque<Vec<Incoming>>,
    bytes: usize,
    /// Since when it has taken nothing; nothing where nothing waits.
    since: Option<Instant>,
    queues: BTreeSet<QueueId>,
    is_paused: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn stands(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= STANDS)
    }

    fn push(&mut self, part: Vec<Incoming>) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes_of(&part);
        for message in &part {
            if !self.queues.contains(&message.queue) {
                self.queues.insert(message.queue.clone());
            }
        }
        self.parts.push_back(part);
    }

    fn pop(&mut self) -> Option<Vec<Incoming>> {
        let part = self.parts.pop_front()?;
        self.bytes -= bytes_of(&part);
        self.since = (!self.is_empty()).then(Instant::now);
        Some(part)
    }
}

fn bytes_of(part: &[Incoming]) -> usize {
    part.iter().map(Incoming::weight).sum()
}

/// The same in parts of so many bytes at most, or of one message.
fn in_parts(messages: Vec<Incoming>) -> Vec<Vec<Incoming>> {
    let (mut parts, mut room): (Vec<Vec<Incoming>>, usize) = (Vec::new(), 0);
    for message in messages {
        let weight = message.weight();
        match parts.last_mut() {
            Some(part) if weight <= room => part.push(message),
            _ => {
                parts.push(vec![message]);
                room = PART_BYTES;
            }
        }
        room = room.saturating_sub(weight);
    }
    parts
}

/// Hands what comes to a member to its lanes.
pub(super) struct Spread<'m> {
    member: &'m GroupConsumer,
    lanes: &'m [Lane],
    /// Of each lane.
    waiting: Vec<Waiting>,
}

impl<'m> Spread<'m> {
    pub fn new(member: &'m GroupConsumer, lanes: &'m [Lane]) -> Self {
        Self { member, lanes, waiting: lanes.iter().map(|_| Waiting::default()).collect() }
    }

    /// Until a lane is gone. `batch` messages are asked for at once.
    pub async fn run(mut self, batch: usize) {
        let member = self.member;
        let mut look = tokio::time::interval(STANDS);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_full = self.bytes_of_busy() >= WAITING_BYTES;
            let waits = self.waiting.iter().any(|waiting| !waiting.is_empty());
            tokio::select! {
                messages = member.poll(batch, POLL), if !is_full => {
                    if !self.hand_out(messages) {
                        return;
                    }
                }
                room = room_in(self.lanes, &self.waiting), if waits => {
                    let Some((lane, room)) = room else { return };
                    self.hand_on(lane, room).await;
                }
                _ = look.tick(), if waits => self.pause_what_stands().await,
            }
        }
    }

    /// Of what waits for lanes that will go on soon. The client holds no more of a queue that is paused than it may.
    fn bytes_of_busy(&self) -> usize {
        self.waiting.iter().filter(|waiting| !waiting.stands()).map(|waiting| waiting.bytes).sum()
    }

    /// Gives each lane its part, or keeps it until there is room; false when a lane is gone.
    fn hand_out(&mut self, messages: Vec<Incoming>) -> bool {
        let mut by_lane: HashMap<usize, Vec<Incoming>> = HashMap::new();
        for message in messages {
            by_lane.entry(lane_of(&message.queue, self.lanes.len())).or_default().push(message);
        }
        let parts = by_lane
            .into_iter()
            .flat_map(|(lane, messages)| in_parts(messages).into_iter().map(move |part| (lane, part)));
        for (lane, part) in parts {
            let (Some(sender), Some(waiting)) = (self.lanes.get(lane), self.waiting.get_mut(lane)) else { continue };
            // What waits already goes first.
            if !waiting.is_empty() {
                waiting.push(part);
                continue;
            }
            match sender.try_send(part) {
                Ok(()) => {}
                Err(TrySendError::Full(part)) => waiting.push(part),
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    /// The lane has room for one part.
    async fn hand_on(&mut self, lane: usize, room: Permit<'m, Vec<Incoming>>) {
        let Some(waiting) = self.waiting.get_mut(lane) else { return };
        if let Some(part) = waiting.pop() {
            room.send(part);
        }
        if waiting.is_empty() {
            let done = std::mem::take(waiting);
            if done.is_paused {
                tracing::debug!(group = self.member.group(), lane, "the lane goes on");
                self.member.resume(&done.queues).await;
            }
        }
    }

    /// Asks for nothing more of the queues of lanes that stand, again and again: a queue that this member is given anew
    /// is not paused.
    async fn pause_what_stands(&mut self) {
        for (lane, waiting) in self.waiting.iter_mut().enumerate().filter(|(_, waiting)| waiting.stands()) {
            if !std::mem::replace(&mut waiting.is_paused, true) {
                let queues = waiting.queues.len();
                tracing::debug!(group = self.member.group(), lane, queues, "the lane stands, and its queues wait");
            }
            self.member.pause(&waiting.queues).await;
        }
    }
}

/// Room in one of the lanes that something waits for, of which there is one at least, as soon as there is some; `None`
/// when the lane is gone.
async fn room_in<'m>(lanes: &'m [Lane], waiting: &[Waiting]) -> Option<(usize, Permit<'m, Vec<Incoming>>)> {
    let full = lanes.iter().enumerate().zip(waiting).filter(|(_, waiting)| !waiting.is_empty());
    let rooms = full.map(|((lane, sender), _)| Box::pin(async move { (lane, sender.reserve().await) }));
    let ((lane, room), _, _) = select_all(rooms).await;
    room.ok().map(|room| (lane, room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_handed_so_many_bytes_at_once() {
        let message = |offset: i64, bytes: usize| Incoming {
            queue: QueueId { topic: "T".to_owned(), broker: "b".to_owned(), queue: 0 },
            offset,
            tag: String::new(),
            key: String::new(),
            body: vec![0; bytes].into(),
            unreadable: None,
            properties: vec![],
            born_ms: 0,
            stored_ms: 0,
        };
        let sizes = [100, 200, PART_BYTES / 2, PART_BYTES / 2, 4 * PART_BYTES, 100, 100];
        let messages = sizes.iter().zip(0..).map(|(bytes, offset)| message(offset, *bytes)).collect();
        let parts = in_parts(messages);
        let offsets: Vec<Vec<i64>> =
            parts.iter().map(|part| part.iter().map(|message| message.offset).collect()).collect();
        assert_eq!(offsets, [vec![0, 1, 2], vec![3], vec![4], vec![5, 6]]);
        assert!(in_parts(vec![]).is_empty());
    }
}
