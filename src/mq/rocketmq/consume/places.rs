//! Where a member is in each of its queues, and where its group may be, as far as the member knows: what tells a message
//! that is missing from one that was left out, and a group that somebody else has moved from one whose commits are still
//! on their way.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::mq::message::QueueId;

/// A commit that has not arrived after so long has got lost, and what is consumed again for it does no harm.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// A client that came to nothing of a place so often does not go there.
const TRIES: u32 = 5;

/// What a broker says about one queue, compared with what this member knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The member has told it so, or was told so already.
    Ours,
    /// Nothing has come from the queue yet, so where the member began there is not known.
    Unknown,
    /// Somebody else has moved the group.
    Moved,
}

/// Where a member has to go before it takes another message of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// The group was moved there.
    To(i64),
    /// What should have come next, and the first offset that came instead.
    Missing { next: i64, came: i64 },
}

/// One queue.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The broker may have any offset between these as the group's: what it was told lately.
    low: i64,
    high: i64,
    /// When that was.
    at: Instant,
    /// The last of what it was told since the member went to another place.
    last: Option<i64>,
    /// What the client was told last, and believes that the broker knows.
    told: Option<i64>,
    /// The offset that comes next.
    next: Option<i64>,
    errand: Option<Errand>,
    /// What lies before it the group was moved past.
    past: i64,
    /// How often the member went on errands since something came from where it went.
    tries: u32,
}

impl Place {
    fn new(offset: i64) -> Self {
        let (low, high, at) = (offset, offset, Instant::now());
        Self { low, high, at, last: None, told: None, next: None, errand: None, past: i64::MIN, tries: 0 }
    }

    /// The broker has what it was told last, unless that is still on its way.
    fn settle(&mut self, now: Instant) {
        if let Some(last) = self.last.filter(|_| now.duration_since(self.at) > ON_ITS_WAY) {
            (self.low, self.high) = (last, last);
        }
    }
}

/// The queues of one member.
#[derive(Default)]
pub(super) struct Places(HashMap<QueueId, Place>);

impl Places {
    /// A message came. False when it is not to be taken: the member has to go elsewhere first. `beyond` says up to where
    /// nothing is missing from an offset on; none: nobody can say, and nothing is.
    pub fn takes(&mut self, queue: &QueueId, offset: i64, beyond: Option<impl FnOnce(i64) -> i64>) -> bool {
        let Some(place) = self.0.get_mut(queue) else {
            self.0.insert(queue.clone(), Place { next: Some(offset + 1), ..Place::new(offset) });
            return true;
        };
        if place.errand.is_some() {
            return false;
        }
        let next = place.next.unwrap_or(offset);
        // What comes again does no harm, unless it is what the group was moved past.
        let is_behind = offset < next && place.tries > 0;
        let is_missing = || offset > next && beyond.is_some_and(|beyond| beyond(next) < offset);
        if is_behind || is_missing() {
            place.errand = Some(if is_behind { Errand::To(next) } else { Errand::Missing { next, came: offset } });
            return false;
        }
        (place.next, place.tries) = (Some(offset + 1), 0);
        place.past = place.past.min(offset);
        // The broker has taken the member back.
        if offset < place.low {
            (place.low, place.at) = (offset, Instant::now());
        }
        true
    }

    /// The broker is about to be told what comes next; true when the client believes that it knows that already.
    pub fn tell(&mut self, queue: &QueueId, offset: i64) -> bool {
        let (place, now) = (self.0.entry(queue.clone()).or_insert_with(|| Place::new(offset)), Instant::now());
        place.settle(now);
        place.low = place.low.min(offset);
        place.high = place.high.max(offset);
        (place.last, place.at) = (Some(offset), now);
        place.told.replace(offset) == Some(offset)
    }

    /// What to make of what the broker said at `now`. From here on it may have only that, and what it is told from here
    /// on.
    pub fn look(&mut self, queue: &QueueId, says: i64, now: Instant) -> Verdict {
        let Some(place) = self.0.get_mut(queue) else { return Verdict::Unknown };
        place.settle(now);
        if !(place.low..=place.high).contains(&says) {
            return Verdict::Moved;
        }
        let last = place.last.unwrap_or(says);
        (place.low, place.high) = (says.min(last), says.max(last));
        Verdict::Ours
    }

    /// The group is at `offset` now, and the member has to go there. Where it need not, because nothing lies there, that
    /// is only noted.
    pub fn moved(&mut self, queue: &QueueId, offset: i64, goes: bool) {
        let place = self.0.entry(queue.clone()).or_insert_with(|| Place::new(offset));
        (place.low, place.high, place.last, place.past) = (offset, offset, None, offset);
        if goes {
            (place.errand, place.tries) = (Some(Errand::To(offset)), 0);
        }
    }

    /// The group was moved past this offset after the member had taken what lies there.
    pub fn is_past(&self, queue: &QueueId, offset: i64) -> bool {
        self.0.get(queue).is_some_and(|place| offset < place.past)
    }

    /// Where the member has to go.
    pub fn errands(&self) -> Vec<(QueueId, Errand)> {
        self.0.iter().filter_map(|(queue, place)| Some((queue.clone(), place.errand?))).collect()
    }

    /// The member has gone to `offset`.
    pub fn went_to(&mut self, queue: &QueueId, offset: i64) {
        let Some(place) = self.0.get_mut(queue) else { return };
        (place.errand, place.next) = (None, Some(offset));
        place.tries += 1;
    }

    /// The member went again and again, and its client gave nothing from there.
    pub fn is_vain(&self, queue: &QueueId) -> bool {
        self.0.get(queue).is_some_and(|place| place.tries >= TRIES)
    }

    /// Forgets what the member has no more.
    pub fn keep(&mut self, own: &BTreeSet<&QueueId>) {
        self.0.retain(|queue, _| own.contains(queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Beyond = fn(i64) -> i64;
    const WHOLE: Option<Beyond> = Some(|next| next);

    fn queue() -> QueueId {
        QueueId { topic: "T".to_owned(), broker: "b".to_owned(), queue: 0 }
    }

    #[test]
    fn a_move_is_told_from_commits_on_their_way() {
        let (mut places, queue, now) = (Places::default(), queue(), Instant::now());
        assert_eq!(places.look(&queue, 7, now), Verdict::Unknown);
        // It began at 5, and has told 6 to 9; the broker may know any of them.
        assert!(places.takes(&queue, 5, WHOLE));
        assert_eq!(places.look(&queue, 5, now), Verdict::Ours);
        for offset in 6..10 {
            assert!(places.takes(&queue, offset, WHOLE));
            assert!(!places.tell(&queue, offset));
        }
        assert_eq!(places.look(&queue, 7, now), Verdict::Ours);
        // It knew 7: that it knows 6 again is somebody else's doing.
        assert_eq!(places.look(&queue, 6, now), Verdict::Moved);
        places.moved(&queue, 6, true);
        assert_eq!(places.look(&queue, 6, now), Verdict::Ours);
        assert!(places.tell(&queue, 9), "the client believes that it is known");
        assert_eq!(places.look(&queue, 9, now), Verdict::Ours);
        // On, and back again before anything has come.
        assert_eq!(places.look(&queue, 400, now), Verdict::Moved);
        places.moved(&queue, 400, true);
        assert_eq!(places.look(&queue, 400, now), Verdict::Ours);
        assert_eq!(places.look(&queue, 100, now), Verdict::Moved);
        // What it was told long ago has arrived: that it is back at the start is somebody else's doing, too.
        places.moved(&queue, 100, false);
        assert!(!places.tell(&queue, 101) && !places.tell(&queue, 110));
        assert_eq!(places.look(&queue, 101, Instant::now()), Verdict::Ours);
        assert_eq!(places.look(&queue, 101, Instant::now() + 2 * ON_ITS_WAY), Verdict::Moved);
        assert_eq!(places.look(&queue, 110, Instant::now() + 2 * ON_ITS_WAY), Verdict::Ours);
        places.keep(&BTreeSet::new());
        assert_eq!(places.look(&queue, 100, now), Verdict::Unknown);
    }

    #[test]
    fn what_comes_again_is_no_move() {
        let (mut places, queue, now) = (Places::default(), queue(), Instant::now());
        assert!((0..10).all(|offset| places.takes(&queue, offset, WHOLE)));
        places.tell(&queue, 10);
        assert_eq!(places.look(&queue, 10, now), Verdict::Ours);
        // The broker has taken the member back by itself, and the member has begun to tell so.
        assert!(places.takes(&queue, 2, WHOLE));
        assert_eq!(places.look(&queue, 2, now), Verdict::Ours);
        places.tell(&queue, 3);
        assert_eq!(places.look(&queue, 3, now), Verdict::Ours);
        assert!(places.takes(&queue, 3, WHOLE));
        assert_eq!(places.errands(), []);
    }

    #[test]
    fn nothing_is_taken_beyond_what_is_missing() {
        let (mut places, queue) = (Places::default(), queue());
        assert!(places.takes(&queue, 1, WHOLE));
        // The broker has left out 2 to 9.
        assert!(places.takes(&queue, 10, Some(|_| 10)));
        assert!(places.takes(&queue, 30, None::<Beyond>), "nobody can say");
        assert!(!places.takes(&queue, 35, Some(|_| 33)));
        assert_eq!(places.errands(), [(queue.clone(), Errand::Missing { next: 31, came: 35 })]);
        assert!(!places.takes(&queue, 36, WHOLE) && !places.takes(&queue, 31, WHOLE), "it was not there yet");
        places.went_to(&queue, 31);
        assert!(places.takes(&queue, 31, WHOLE));
        assert_eq!((places.errands(), places.tell(&queue, 32)), (vec![], false));
    }

    #[test]
    fn what_the_group_was_moved_past_is_left() {
        let (mut places, queue) = (Places::default(), queue());
        assert!((0..40).all(|offset| places.takes(&queue, offset, WHOLE)));
        assert!(!places.is_past(&queue, 0));
        places.moved(&queue, 10, true);
        assert!(places.is_past(&queue, 9) && !places.is_past(&queue, 10));
        places.went_to(&queue, 10);
        assert!(places.takes(&queue, 10, WHOLE) && places.is_past(&queue, 9));
        // Back, and a topic that was made anew begins before everything.
        places.moved(&queue, 4, false);
        assert!(places.is_past(&queue, 3) && !places.is_past(&queue, 4));
        assert!(places.takes(&queue, 0, WHOLE) && !places.is_past(&queue, 0));
    }

    #[test]
    fn a_member_goes_again_where_its_client_did_not() {
        let (mut places, queue) = (Places::default(), queue());
        assert!((0..300).all(|offset| places.takes(&queue, offset, WHOLE)));
        for (to, instead) in [(100, 1_000), (2_000, 300)] {
            places.moved(&queue, to, true);
            for tries in 0..3 * TRIES {
                assert_eq!(places.is_vain(&queue), tries >= TRIES);
                assert!(!places.takes(&queue, instead, WHOLE), "it is on its way");
                places.went_to(&queue, to);
                assert!(!places.takes(&queue, instead, WHOLE), "it is not where it was sent, {to}");
            }
            assert_eq!(places.errands().len(), 1);
            places.went_to(&queue, to);
            assert!(places.takes(&queue, to, WHOLE) && !places.is_vain(&queue));
        }
    }
}
