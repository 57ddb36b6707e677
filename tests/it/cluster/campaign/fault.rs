//! What breaks in a campaign, when, and whom it concerns.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::readiness::Answer;
use crate::support::clustered_roles::{ROLES, WORKERS};

/// Every so many strikes, on average, two things break at once.
const PAIRS: f64 = 0.2;
/// How long a fault lasts, seconds.
const LASTS: std::ops::Range<u64> = 1..13;
/// The index of a fault is less. What it hits goes by the remainder, and how it hits it by the size: so each process
/// meets each way.
const INDEXES: usize = 1_000;
/// How wrong a clock is, seconds.
const WRONG_BY: [i64; 4] = [2, 30, 600, 3_600];
/// The rows that are locked: the newest one of a table by its key.
const LOCKED: [Row; 5] = [
    Row { role: "stock", table: "stock", key: "sku" },
    Row { role: "order", table: "orders", key: "id" },
    Row { role: "payment", table: "payment_record", key: "id" },
    Row { role: "stock", table: "stock_reservation", key: "order_id" },
    Row { role: "notify", table: "user_points", key: "user_id" },
];

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ProcessKilled,
    ProcessHangs,
    /// Connections to one role's database are black holes; new ones are served.
    ConnectionsFrozen,
    /// As before, and new ones are not served either.
    DatabaseFrozen,
    /// Statements arrive, and their answers do not.
    AnswersLost,
    ConnectionsCut,
    DatabaseSlow,
    DatabaseKilled,
    /// As in a failover: connections that are made meanwhile can only read for as long as they live.
    DatabaseReadOnly,
    RowLocked,
    CacheKilled,
    CacheHangs,
    CacheEmptied,
    BrokerKilled,
    BrokerHangs,
    NameServerKilled,
    ClockAhead,
    ClockBehind,
}

const KINDS: [Kind; 18] = [
    Kind::ProcessKilled,
    Kind::ProcessHangs,
    Kind::ConnectionsFrozen,
    Kind::DatabaseFrozen,
    Kind::AnswersLost,
    Kind::ConnectionsCut,
    Kind::DatabaseSlow,
    Kind::DatabaseKilled,
    Kind::DatabaseReadOnly,
    Kind::RowLocked,
    Kind::CacheKilled,
    Kind::CacheHangs,
    Kind::CacheEmptied,
    Kind::BrokerKilled,
    Kind::BrokerHangs,
    Kind::NameServerKilled,
    Kind::ClockAhead,
    Kind::ClockBehind,
];

/// What a kind breaks: two things break at once only where neither mends or needs the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Process,
    Database,
    Cache,
    RocketMq,
}

impl Kind {
    fn part(self) -> Part {
        match self {
            Self::ProcessKilled | Self::ProcessHangs | Self::ClockAhead | Self::ClockBehind => Part::Process,
            Self::CacheKilled | Self::CacheHangs | Self::CacheEmptied => Part::Cache,
            Self::BrokerKilled | Self::BrokerHangs | Self::NameServerKilled => Part::RocketMq,
            Self::ConnectionsFrozen
            | Self::DatabaseFrozen
            | Self::AnswersLost
            | Self::ConnectionsCut
            | Self::DatabaseSlow
            | Self::DatabaseKilled
            | Self::DatabaseReadOnly
            | Self::RowLocked => Part::Database,
        }
    }
}

/// A row that somebody locks.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub role: &'static str,
    pub table: &'static str,
    pub key: &'static str,
}

/// One fault: what, and which process, role, broker or name server it hits (an index, taken modulo their number).
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub index: usize,
}

impl Fault {
    fn of(kind: Kind, rng: &mut StdRng) -> Self {
        Self { kind, index: rng.random_range(0..INDEXES) }
    }

    /// The place of the process that it hits among `count`.
    pub fn process(self, count: usize) -> usize {
        self.index % count
    }

    /// The place in [`ROLES`] of the role whose database it hits.
    pub fn database(self) -> usize {
        self.index % ROLES.len()
    }

    pub fn broker(self) -> &'static str {
        ["a", "b"][self.index % 2]
    }

    pub fn name_server(self) -> usize {
        self.index % 2
    }

    pub fn row(self) -> Row {
        LOCKED[self.index % LOCKED.len()]
    }

    /// How wrong the clock of its process is.
    pub fn wrong_by_s(self) -> i64 {
        let sign = if self.kind == Kind::ClockBehind { -1 } else { 1 };
        sign * WRONG_BY[self.index * WRONG_BY.len() / INDEXES]
    }

    /// Whether a killed process is away for as long as the fault lasts; else it is started again at once.
    pub fn stays_away(self) -> bool {
        self.index < INDEXES / 2
    }

    /// Whether connections that hung are cut in the end; else what was held back arrives late.
    pub fn ends_in_a_cut(self) -> bool {
        self.index.is_multiple_of(3)
    }

    /// What `/readyz` of the process `name`, the one at `place` of `count`, may answer at worst meanwhile. A locked
    /// row, a cache and a wrong clock are no reason for any process not to be ready, and neither is a broker, but for
    /// the worker that asks nobody but brokers.
    pub fn worst_answer(self, name: &str, place: usize, count: usize) -> Answer {
        let is_hit = match self.kind {
            Kind::ProcessKilled | Kind::ProcessHangs => {
                return if place == self.process(count) { Answer::Silent } else { Answer::Ready };
            }
            Kind::ConnectionsFrozen
            | Kind::DatabaseFrozen
            | Kind::AnswersLost
            | Kind::ConnectionsCut
            | Kind::DatabaseSlow => uses(name, ROLES[self.database()]),
            Kind::DatabaseKilled | Kind::DatabaseReadOnly => ROLES.iter().any(|role| uses(name, role)),
            Kind::BrokerKilled | Kind::BrokerHangs | Kind::NameServerKilled => worker(name) == Some("backlog"),
            Kind::RowLocked
            | Kind::CacheKilled
            | Kind::CacheHangs
            | Kind::CacheEmptied
            | Kind::ClockAhead
            | Kind::ClockBehind => false,
        };
        if is_hit { Answer::NotReady } else { Answer::Ready }
    }

    /// As it is told; `processes` are the names of all.
    fn told(self, processes: &[String]) -> String {
        let process = &processes[self.process(processes.len())];
        let hit = match self.kind {
            Kind::ProcessKilled if self.stays_away() => format!(" {process}, which stays away"),
            Kind::ProcessKilled | Kind::ProcessHangs => format!(" {process}"),
            Kind::ClockAhead | Kind::ClockBehind => format!(" {process} by {} s", self.wrong_by_s()),
            Kind::ConnectionsFrozen | Kind::AnswersLost if self.ends_in_a_cut() => {
                format!(" {}, cut in the end", ROLES[self.database()])
            }
            Kind::ConnectionsFrozen
            | Kind::DatabaseFrozen
            | Kind::AnswersLost
            | Kind::ConnectionsCut
            | Kind::DatabaseSlow => format!(" {}", ROLES[self.database()]),
            Kind::RowLocked => format!(" {}", self.row().table),
            Kind::BrokerKilled | Kind::BrokerHangs => format!(" {}", self.broker()),
            Kind::NameServerKilled => format!(" {}", self.name_server()),
            Kind::DatabaseKilled
            | Kind::DatabaseReadOnly
            | Kind::CacheKilled
            | Kind::CacheHangs
            | Kind::CacheEmptied => String::new(),
        };
        format!("{:?}{hit}", self.kind)
    }
}

/// Which worker a process is, if it is one: they are numbered over all that there are.
fn worker(name: &str) -> Option<&'static str> {
    let number: usize = name.strip_prefix("worker-")?.parse().ok()?;
    Some(WORKERS[(number - 1) % WORKERS.len()])
}

/// Whether the process `name` works on the database of `role`.
fn uses(name: &str, role: &str) -> bool {
    match worker(name) {
        Some("retry") => true,
        Some("timeout") => role == "order",
        Some(_) => false,
        None => name.starts_with(role),
    }
}

/// One or two faults at once.
#[derive(Clone, Debug)]
pub struct Strike {
    seed: u64,
    number: usize,
    pub faults: Vec<Fault>,
    pub lasts: Duration,
}

impl Strike {
    /// The kind of a fault that strikes alone.
    pub fn kind(&self) -> Option<Kind> {
        if let [fault] = self.faults[..] { Some(fault.kind) } else { None }
    }

    /// As it is told, so that it can be found again; `processes` are the names of all.
    pub fn told(&self, processes: &[String]) -> String {
        let faults: Vec<String> = self.faults.iter().map(|fault| fault.told(processes)).collect();
        format!("seed {}, strike {} ({}) for {:?}", self.seed, self.number, faults.join(" and "), self.lasts)
    }
}

/// A campaign of `count` strikes. They are drawn by chance, and every fifth is two at once; those of a campaign that
/// has room for each kind equally often are one of each kind in turn.
pub fn strikes(count: usize, seed: u64) -> Vec<Strike> {
    let mut rng = StdRng::seed_from_u64(seed);
    let is_in_turn = count.is_multiple_of(KINDS.len());
    let mut all = Vec::new();
    for number in 0..count {
        let kind = if is_in_turn { KINDS[number % KINDS.len()] } else { *KINDS.choose(&mut rng).unwrap() };
        let mut faults = vec![Fault::of(kind, &mut rng)];
        if !is_in_turn && rng.random_bool(PAIRS) {
            let others: Vec<Kind> = KINDS.into_iter().filter(|other| other.part() != kind.part()).collect();
            faults.push(Fault::of(*others.choose(&mut rng).unwrap(), &mut rng));
        }
        let lasts = Duration::from_secs(rng.random_range(LASTS));
        all.push(Strike { seed, number, faults, lasts });
    }
    all
}
