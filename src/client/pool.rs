//! The addresses of a role: requests are spread over them, and go on to the next one when one does not serve.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config;

/// How long an address that did not answer is asked last.
const AWAY: Duration = Duration::from_secs(2);

/// The addresses of one role.
#[derive(Debug)]
pub(super) struct Pool {
    members: Vec<Member>,
    turn: AtomicUsize,
    since: Instant,
}

/// One address.
#[derive(Debug)]
pub(super) struct Member {
    base: String,
    /// Milliseconds since the pool was made.
    away_until: AtomicU64,
}

impl Pool {
    /// Of base URLs between commas.
    pub fn new(text: &str) -> Self {
        let member = |base: &str| Member { base: base.to_owned(), away_until: AtomicU64::new(0) };
        let members = config::Client::bases(text).into_iter().map(member).collect();
        Self { members, turn: AtomicUsize::new(0), since: Instant::now() }
    }

    /// Every address once, in the order in which one call tries them: each call begins one further, and those that
    /// did not answer lately come last.
    pub fn round(&self) -> Vec<&Member> {
        let count = self.members.len().max(1);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count;
        let now_ms = self.now_ms();
        let mut round: Vec<&Member> = self.members.iter().cycle().skip(turn).take(self.members.len()).collect();
        round.sort_by_key(|member| member.away_until.load(Ordering::Relaxed) > now_ms);
        round
    }

    /// It did not serve.
    pub fn away(&self, member: &Member) {
        let until = self.now_ms() + u64::try_from(AWAY.as_millis()).unwrap_or(u64::MAX);
        member.away_until.store(until, Ordering::Relaxed);
    }

    /// It answered.
    pub fn back(&self, member: &Member) {
        member.away_until.store(0, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Member {
    /// Base URL, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }
}
