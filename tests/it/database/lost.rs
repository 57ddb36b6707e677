//! What an operator sets going again.

use ruyi::db::inbox::{self, Claim, Outcome};
use ruyi::db::outbox::{self, HEAD_START_MS, OutboxRow};
use ruyi::db::retry::{self, Parked};
use ruyi::db::stock::{self, Movement, Reservation, Stocked};
use ruyi::db::{audit, points};
use ruyi::domain::points::Kind as Earned;
use ruyi::domain::stock::{Kind, Level, Status};

use crate::support::message_rows::{self, outbox_row};
use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn row(id: i64) -> OutboxRow {
    OutboxRow { properties: vec![("a".into(), "é".into())], ..outbox_row(id) }
}

fn parked(id: i64, next_at: Option<i64>) -> Parked {
    Parked { key: "k".into(), next_at, ..message_rows::parked(id) }
}

pub(super) async fn what_was_lost_is_due_again(test: TestDb) {
    let rows: Vec<OutboxRow> = (1..=4).map(row).collect();
    let waiting = [parked(1, None), parked(2, None)];
    let done = write_tx!(test.db, [rows, waiting], |tx| {
        outbox::insert(tx, &rows, START_MS).await?;
        outbox::mark_sent(tx, &[4], START_MS).await?;
        retry::park(tx, "g", &waiting, START_MS).await?;
        let claim = Claim { message_id: "1:E", topic: "E", key: "k", resent: None };
        inbox::claim(tx, "g", 1, &[claim], START_MS).await.map(|_| ())
    });
    done.unwrap();
    crate::support::small_shop::execute(
        &test.db,
        &[
            "UPDATE message_record SET status = 2, attempts = 16, next_at = NULL WHERE id = 1",
            "UPDATE message_record SET next_at = NULL WHERE id = 2",
        ],
    )
    .await;
    let mut conn = test.db.read().await.unwrap();
    let found = outbox::find(&mut conn, "1:E").await.unwrap().unwrap();
    assert_eq!((found.id, found.properties, found.attempts), (1, row(1).properties, 16));
    assert!(outbox::find(&mut conn, "9:E").await.unwrap().is_none());
    // Given up, or without a time; neither what waits for its turn nor what was sent.
    for (id, rows) in [(1, 1), (2, 1), (3, 0), (4, 0), (1, 0)] {
        assert_eq!(write_tx!(test.db, [], |tx| { outbox::redrive_lost(tx, id).await }).unwrap(), rows, "{id}");
    }
    let claimed = write_tx!(test.db, [], |tx| { outbox::claim(tx, 10, 1_000).await }).unwrap();
    assert_eq!(claimed.iter().map(|row| (row.id, row.attempts)).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
    test.clock.advance_ms(HEAD_START_MS);
    // The first of a key that waits behind nothing; what is behind it then waits for it.
    for (id, rows) in [(2, 0), (1, 1), (1, 0), (2, 0), (9, 0)] {
        assert_eq!(write_tx!(test.db, [], |tx| { retry::wake_lost(tx, id).await }).unwrap(), rows, "{id}");
    }
    let outcome =
        async |id: &'static str| write_tx!(test.db, [], |tx| { inbox::lock_outcome(tx, "g", id).await }).unwrap();
    assert_eq!((outcome("1:E").await, outcome("2:E").await), (Some(Outcome::Done as i64), None));
}

pub(super) async fn sums_are_made_anew(test: TestDb) {
    let record = |order_id, kind, points| points::Record { order_id, kind, user_id: 7, points };
    let records = [record(1, Earned::Grant, 10), record(1, Earned::Correct, -4), record(2, Earned::Grant, 5)];
    let done = write_tx!(test.db, [records], |tx| {
        points::apply(tx, &records).await?;
        stock::create(tx, &["A".to_owned(), "B".to_owned()], START_MS).await?;
        let held = Reservation { status: Status::Frozen, lines: [("A".to_owned(), 2)].into(), reason: "é".to_owned() };
        stock::insert_reservations(tx, &[(1, &held)]).await?;
        let set = |sku: &str, order_id, kind: Kind, pieces| Movement {
            sku: sku.to_owned(),
            order_id,
            kind,
            change: kind.movement(pieces),
            reason: String::new(),
            actor: None,
        };
        let level = Level { available: 8, frozen: 2, sold: 0 };
        stock::update(tx, &[("A", Stocked { level, version: 0 })].into()).await?;
        stock::insert_ledger(tx, &[set("A", 0, Kind::Set, 10), set("A", 1, Kind::Freeze, 2), set("B", 0, Kind::Set, 1)])
            .await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(stock::reservation(&mut conn, 1).await.unwrap().unwrap().reason, "é");
    assert!(stock::reservation(&mut conn, 2).await.unwrap().is_none());
    let movements = audit::movements(&mut conn, 1).await.unwrap();
    assert_eq!(movements.iter().map(|one| (one.kind, one.change.frozen)).collect::<Vec<_>>(), [(2, 2)]);
    let sums = audit::ledger_sums(&mut conn, &["A".to_owned(), "B".to_owned(), "C".to_owned()]).await.unwrap();
    assert_eq!(sums.len(), 2);
    assert_eq!(sums["A"], Level { available: 8, frozen: 2, sold: 0 });
    let rebalance = async |user| write_tx!(test.db, [], |tx| { points::rebalance(tx, user).await }).unwrap();
    assert_eq!(rebalance(7).await, None);
    crate::support::small_shop::execute(&test.db, &["UPDATE user_points SET balance = 99 WHERE user_id = 7"]).await;
    assert_eq!(rebalance(7).await, Some((99, 11)));
    assert_eq!(count(&test.db, "SELECT balance FROM user_points WHERE user_id = 7").await, 11);
    crate::support::small_shop::execute(&test.db, &["DELETE FROM user_points"]).await;
    assert_eq!(rebalance(7).await, Some((0, 11)));
    // An order has one correction: a second one is added to it.
    for (order_id, change, balance) in [(1, 3, 14), (1, -2, 12), (2, -5, 7)] {
        write_tx!(test.db, [], |tx| { points::correct(tx, order_id, 7, change).await }).unwrap();
        assert_eq!(count(&test.db, "SELECT balance FROM user_points WHERE user_id = 7").await, balance);
    }
    assert_eq!(audit::points(&mut conn, &[1]).await.unwrap()[&1], [(1, 7, 10), (3, 7, -3)]);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM points_record").await, 4);
}
