//! Every topic of the catalogue: produced as an outside system would, it has its effect in each of its groups, once,
//! however often it comes.

use bytes::Bytes;
use ruyi::db::Db;
use ruyi::domain::event::Kind;
use ruyi::mq::message::{Incoming, QueueId};

use crate::support::event_cases::{Case, PROVIDERS, handled, number, prepare};
use crate::support::shop::{Setup, Shop};

/// Orders are told apart by so much: a case uses the numbers after its own for users and payments.
const STEP: i64 = 10;
const FIRST: i64 = 5_000_000_000;

/// Each group has done its part, once.
async fn check(db: &Db, kind: Kind, case: &Case) {
    let mut wanted: Vec<_> = kind.groups().iter().map(|group| (group.name().to_owned(), 0, String::new())).collect();
    wanted.sort();
    let id = kind.repeats().unwrap_or(kind).event_id(&case.key);
    assert_eq!(handled(db, &id).await, wanted, "{kind:?}");
    for (group, text) in &case.effects {
        assert_eq!(number(db, text).await, 1, "{kind:?} in {}: {text}", group.name());
    }
}

/// As it comes off a broker: no properties at all.
fn incoming(kind: Kind, case: &Case, offset: i64) -> Incoming {
    Incoming {
        queue: QueueId { topic: kind.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
        offset,
        tag: String::new(),
        key: case.key.clone(),
        body: Bytes::from(case.body.to_string()),
        unreadable: None,
        properties: vec![],
        born_ms: 0,
        stored_ms: 0,
    }
}

#[tokio::test]
async fn every_topic_does_its_work_once() {
    for (number, kind) in (0_i64..).zip(Kind::ALL) {
        let settings = PROVIDERS.map(str::to_owned).to_vec();
        let mut shop = Shop::with(Setup { settings, ..Setup::default() }, 0).await;
        let case = prepare(&shop.db, kind, FIRST + number * STEP).await;
        // Twice in one batch, and once more in another.
        for offset in 0..3 {
            for group in kind.groups() {
                shop.queue(*group).push(incoming(kind, &case, offset));
            }
            if offset > 0 {
                for group in kind.groups() {
                    shop.deliver(*group, usize::MAX).await;
                }
            }
        }
        check(&shop.db, kind, &case).await;
        assert_eq!((shop.parked().await, shop.dead_letters().await), (0, 0), "{kind:?}");
    }
}
