//! Replays of dead letters, as the inbox tells them apart.

use ruyi::db::inbox::{self, Claim, Resent};
use ruyi::db::{Db, DbError};

use crate::support::servers::{START_MS, TestDb, count, write_tx};

/// How many messages got through: one, or none.
async fn claim(db: &Db, resent: Option<Resent<'static>>) -> usize {
    let claimed = write_tx!(db, [], |tx| {
        let (batch, now_ms) = (tx.next_id(), tx.now_ms());
        let claim = Claim { message_id: "1:E", topic: "E", key: "k", resent };
        inbox::claim(tx, "g", batch, &[claim], now_ms).await
    });
    claimed.unwrap().ids.len()
}

async fn bury(db: &Db, replay: Option<&'static str>) {
    write_tx!(db, [], |tx| { inbox::bury(tx, "g", "1:E", replay, "no", START_MS + 1_000).await }).unwrap();
}

pub(super) async fn a_replay_is_taken_once_by_its_name(test: TestDb) {
    let db = &test.db;
    let named = |replay| Some(Resent::By(replay));
    assert_eq!(claim(db, None).await, 1);
    bury(db, None).await;
    assert_eq!(claim(db, named("a")).await, 1);
    assert_eq!((claim(db, named("a")).await, claim(db, named("b")).await), (0, 0), "it is being handled");
    bury(db, Some("a")).await;
    assert_eq!(claim(db, named("a")).await, 0, "a copy of what died");
    assert_eq!(claim(db, Some(Resent::At(START_MS + 1_000))).await, 0, "as old as the death");
    assert_eq!(claim(db, named("b")).await, 1);
    bury(db, Some("b")).await;
    assert_eq!((claim(db, named("a")).await, claim(db, named("b")).await), (0, 0));
    // Tried by hand after its death, it dies under the same name.
    bury(db, Some("b")).await;
    assert_eq!(claim(db, Some(Resent::At(START_MS + 1_001))).await, 1);
    bury(db, None).await;
    assert_eq!(count(db, "SELECT COUNT(*) FROM message_process_log WHERE outcome = 3").await, 1);
    assert_eq!(count(db, "SELECT COUNT(*) FROM message_process_log WHERE outcome = 1 AND msg_key = ''").await, 2);
}

pub(super) async fn copies_at_once_die_once(test: TestDb) {
    assert_eq!(claim(&test.db, None).await, 1);
    bury(&test.db, None).await;
    let copies: Vec<_> = (0..6)
        .map(|_| {
            let db = test.db.clone();
            tokio::spawn(async move {
                let handled = write_tx!(db, [], |tx| {
                    let (batch, now_ms) = (tx.next_id(), tx.now_ms());
                    let claim = Claim { message_id: "1:E", topic: "E", key: "k", resent: Some(Resent::By("a")) };
                    let revived = inbox::claim(tx, "g", batch, &[claim], now_ms).await?.revived.len();
                    if revived > 0 {
                        inbox::bury(tx, "g", "1:E", Some("a"), "no", now_ms).await?;
                    }
                    Ok::<usize, DbError>(revived)
                });
                handled.unwrap()
            })
        })
        .collect();
    let mut deaths = 0;
    for copy in copies {
        deaths += copy.await.unwrap();
    }
    assert_eq!(deaths, 1);
}
