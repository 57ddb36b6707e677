//! What brokers themselves leave out of the queues that they are asked for: messages that they have deleted, places that
//! they have moved a group past. Every other message between two that have come is missing, wherever it got lost.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many holes of a queue are remembered; what is behind forgotten ones is asked for again.
const MOST: usize = 64;

/// A queue of a group, by the names that its broker knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub group: String,
    pub topic: String,
    pub broker: String,
    pub queue: i32,
}

/// The holes of all queues that the members of a process ask for.
#[derive(Debug, Default)]
pub(super) struct Holes(Mutex<HashMap<Asked, Vec<Range<i64>>>>);

impl Holes {
    /// An answer to what was asked for from `from` on: the messages at `offsets`, and that the next one to ask for is
    /// `next`. Costs nothing where nothing is left out.
    pub fn note(&self, asked: impl FnOnce() -> Asked, from: i64, offsets: impl Iterator<Item = i64>, next: i64) {
        let mut found: Vec<Range<i64>> = Vec::new();
        let mut at = from;
        for offset in offsets {
            found.extend((at < offset).then_some(at..offset));
            at = at.max(offset + 1);
        }
        found.extend((at < next).then_some(at..next));
        if found.is_empty() {
            return;
        }
        let mut all = self.all();
        let known = all.entry(asked()).or_default();
        for hole in found {
            match known.last_mut() {
                Some(last) if (last.start..=last.end).contains(&hole.start) => last.end = last.end.max(hole.end),
                _ => known.push(hole),
            }
        }
        let forgotten = known.len().saturating_sub(MOST);
        known.drain(..forgotten);
    }

    /// The first offset from `from` on that is in no hole.
    pub fn beyond(&self, asked: &Asked, from: i64) -> i64 {
        let all = self.all();
        let Some(known) = all.get(asked) else { return from };
        let mut at = from;
        while let Some(hole) = known.iter().find(|hole| hole.contains(&at)) {
            at = hole.end;
        }
        at
    }

    /// The group has come to `offset`.
    pub fn forget_before(&self, asked: &Asked, offset: i64) {
        let mut all = self.all();
        if let Some(known) = all.get_mut(asked) {
            known.retain(|hole| hole.end > offset);
            if known.is_empty() {
                all.remove(asked);
            }
        }
    }

    /// A panic elsewhere leaves a valid value.
    fn all(&self) -> MutexGuard<'_, HashMap<Asked, Vec<Range<i64>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_brokers_leave_out_is_a_hole() {
        let (holes, asked) = (Holes::default(), || Asked {
            group: "g".to_owned(),
            topic: "T".to_owned(),
            broker: "b".to_owned(),
            queue: 0,
        });
        holes.note(asked, 0, [0, 1, 2].into_iter(), 3);
        assert!(holes.all().is_empty(), "all of it came");
        assert_eq!(holes.beyond(&asked(), 3), 3);
        // Deleted at the start, one in the middle, some at the end; then the group is moved on from there.
        holes.note(asked, 3, [7, 8, 10].into_iter(), 12);
        holes.note(asked, 12, std::iter::empty(), 40);
        holes.note(asked, 50, std::iter::empty(), 40);
        let ends = [3, 6, 7, 8, 9, 10, 11, 39, 40].map(|from| holes.beyond(&asked(), from));
        assert_eq!(ends, [7, 7, 7, 8, 10, 10, 40, 40, 40]);
        holes.forget_before(&asked(), 12);
        assert_eq!([3, 9, 12].map(|from| holes.beyond(&asked(), from)), [3, 9, 40]);
        holes.forget_before(&asked(), 40);
        assert!(holes.all().is_empty());
        for number in 0..200 {
            holes.note(asked, number * 10, [number * 10 + 5].into_iter(), number * 10 + 6);
        }
        assert_eq!(holes.all()[&asked()].len(), MOST);
        assert_eq!([0, 1_990].map(|from| holes.beyond(&asked(), from)), [0, 1_995]);
    }
}
