//! Every topic of the catalogue: produced as an outside system would, it has its effect in each of its groups, once,
//! however often it comes.

pub mod case;

use bytes::Bytes;
use ruyi::db::Db;
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::{Group, Kind};
use ruyi::mq::message::{Incoming, QueueId};

use crate::shop::{Setup, Shop};
use case::{Case, case};

/// Orders are told apart by so much: a case uses the numbers after its own for users and payments.
const STEP: i64 = 10;
const FIRST: i64 = 5_000_000_000;

/// SMS and e-mail are wanted: without a contact of the user nothing leaves.
pub const PROVIDERS: [&str; 4] = [
    "notices.sms.endpoint=http://127.0.0.1:9/sms",
    "notices.email.host=127.0.0.1",
    "notices.email.tls=none",
    "notices.email.from=shop@example.com",
];

/// A number that `text` selects.
pub async fn number(db: &Db, text: &str) -> i64 {
    let mut conn = db.read().await.unwrap();
    sql::fetch_one(&mut conn, text.to_owned(), vec![]).await.unwrap().unwrap().int(0).unwrap()
}

/// (outcome, reason) of the message in each group's inbox.
pub async fn handled(db: &Db, id: &str) -> Vec<(String, i64, String)> {
    let mut conn = db.read().await.unwrap();
    let text =
        "SELECT consumer_group, outcome, reason FROM message_process_log WHERE message_id = ? ORDER BY consumer_group";
    let rows = sql::fetch(&mut conn, text, ruyi::vals![id]).await.unwrap();
    let read = |row: &sqlx::any::AnyRow| {
        (row.text(0).unwrap(), row.int(1).unwrap(), row.maybe_text(2).unwrap().unwrap_or_default())
    };
    rows.iter().map(read).collect()
}

/// The case covers the groups that the catalogue names, and nothing of it has happened yet.
pub async fn prepare(db: &Db, kind: Kind, id: i64) -> Case {
    let case = case(db, kind, id).await;
    let groups: Vec<Group> = case.effects.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, kind.groups(), "{kind:?}: each group of the catalogue needs an effect here");
    for (group, text) in &case.effects {
        assert_eq!(number(db, text).await, 0, "{kind:?} in {} before: {text}", group.name());
    }
    case
}

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
        properties: vec![],
        born_ms: 0,
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
