//! Refunds as the order knows them, and the points that they take back.

use ruyi::db::DbError;
use ruyi::db::payments::{self, RefundRow, RefundStatus};
use ruyi::db::points::{self, Place, Record, Reversal};
use ruyi::db::refunds::{self, OrderRefund, Standing};
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::RefundKind;
use ruyi::domain::money::Money;
use ruyi::domain::order::Status;
use ruyi::domain::points::Kind;
use ruyi::domain::refund::Refusal;
use ruyi::roles::order::refunds::{Asked, Wish, ask};
use ruyi::roles::payment::channels::Channels;
use ruyi::roles::payment::refund::{self as payment_refund, Part};

use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn money(minor: i64) -> Money {
    Money::from_minor(minor).unwrap()
}

pub(super) async fn refunds_of_orders(test: TestDb) {
    let refund = |id: i64, order_id: i64, number: Option<&str>| OrderRefund {
        id,
        order_id,
        refund_no: number.map(str::to_owned),
        amount: money(id * 100),
        reason: "é".repeat(200),
        status: Standing::Requested,
        error: None,
        created_at: START_MS,
        updated_at: START_MS,
    };
    let rows = vec![refund(1, 7, Some("a")), refund(2, 7, None), refund(3, 7, None), refund(4, 8, Some("a"))];
    let again = vec![refund(2, 7, None), refund(9, 7, Some("a"))];
    let done = write_tx!(test.db, [rows, again], |tx| {
        assert_eq!(refunds::insert(tx, &rows).await?.count(), 4);
        // A known id, and a known number of the order.
        assert_eq!(refunds::insert(tx, &again).await?.count(), 0);
        refunds::failed(tx, 1, &"x".repeat(900)).await?;
        refunds::failed(tx, 3, "no").await?;
        refunds::succeeded(tx, vec![2, 3, 99]).await?;
        // What is back stays back.
        refunds::failed(tx, 2, "late").await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let found = refunds::of_orders(&mut conn, vec![8, 7, 7, 5]).await.unwrap();
    assert_eq!((found.len(), &found[&8][0]), (2, &refund(4, 8, Some("a"))));
    let seven: Vec<_> = found[&7].iter().map(|row| (row.id, row.status, row.error.as_ref().map(String::len))).collect();
    assert_eq!(seven, [(1, Standing::Failed, Some(500)), (2, Standing::Success, None), (3, Standing::Success, None)]);
}

pub(super) async fn parts_of_a_payment_go_back_beside_each_other(test: TestDb) {
    let refund = |id: i64, kind: RefundKind| RefundRow {
        id,
        payment_id: 1,
        order_id: 101,
        kind,
        amount: money(5),
        reason: "r".into(),
        status: RefundStatus::Pending,
        transaction_no: "T1".into(),
        error: None,
    };
    let rows = vec![refund(1, RefundKind::Part), refund(2, RefundKind::Part), refund(3, RefundKind::Order)];
    let again = vec![refund(2, RefundKind::Part), refund(4, RefundKind::Order)];
    let done = write_tx!(test.db, [rows, again], |tx| {
        assert_eq!(payments::insert_refunds(tx, &rows).await?.count(), 3);
        assert_eq!(payments::insert_refunds(tx, &again).await?.count(), 0);
        payments::fail_refund(tx, 2, &"é".repeat(900)).await?;
        payments::set_refund_status(tx, &[1], RefundStatus::Success).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let found = payments::refunds_of_orders(&mut conn, vec![101, 101, 7]).await.unwrap();
    let seen: Vec<_> = found[&1].iter().map(|row| (row.id, row.kind, row.status, row.error.is_some())).collect();
    let wanted = [
        (1, RefundKind::Part, RefundStatus::Success, false),
        (2, RefundKind::Part, RefundStatus::Failed, true),
        (3, RefundKind::Order, RefundStatus::Pending, false),
    ];
    assert_eq!((found.len(), seen.as_slice()), (1, wanted.as_slice()));
}

pub(super) async fn points_are_taken_back_in_parts(test: TestDb) {
    let record = |kind, user_id, points| Record { order_id: 5, kind, user_id, points };
    let one = |refund_id: i64, order_id: i64| Reversal { refund_id, order_id, amount: 10, paid: 100 };
    let done = write_tx!(test.db, [], |tx| {
        points::note_reversals(tx, &[one(1, 5), one(2, 5), one(3, 6)]).await?;
        points::note_reversals(tx, &[]).await?;
        // Taken back before it was granted.
        points::apply(tx, &[record(Kind::Reverse, 0, 0)]).await?;
        points::apply(tx, &[record(Kind::Grant, 9, 50)]).await?;
        points::take_more(tx, &record(Kind::Reverse, 9, -5)).await?;
        points::take_more(tx, &record(Kind::Reverse, 9, -7)).await
    });
    done.unwrap();
    let twice = write_tx!(test.db, [], |tx| { points::note_reversals(tx, &[one(2, 5)]).await });
    assert!(twice.unwrap_err().is_unique_violation());
    let mut conn = test.db.read().await.unwrap();
    let found = points::reversals(&mut conn, vec![5, 6, 5, 1]).await.unwrap();
    assert_eq!(
        (found[&5].as_slice(), found[&6].as_slice()),
        ([one(1, 5), one(2, 5)].as_slice(), [one(3, 6)].as_slice())
    );
    assert_eq!(points::standing(&mut conn, 9).await.unwrap().balance, 38);
    assert_eq!(points::standing(&mut conn, 0).await.unwrap().sum(), 0);
    let records = points::history(&mut conn, 9, Place::NEWEST, 9).await.unwrap();
    assert!(records.iter().any(|entry| entry.record == record(Kind::Reverse, 9, -12)));
}

/// All want the same row: on a busy machine not everybody gets a connection in time, and asks again.
async fn patiently<T, F: Future<Output = Result<T, DbError>>>(work: impl Fn() -> F) -> T {
    loop {
        match work().await {
            Err(error) if error.is_outage() => {}
            done => break done.unwrap(),
        }
    }
}

/// Whoever asks at the same time, in however many processes: no more is promised than was paid.
pub(super) async fn never_more_goes_back_than_was_paid(test: TestDb) {
    let mut order = super::business::order(7);
    order.state.status = Status::Signed;
    order.state.handed_over = true;
    order.state.total = money(1_000);
    let rows = vec![(order, vec![])];
    write_tx!(test.db, [rows], |tx| { ruyi::db::orders::insert(tx, &rows).await }).unwrap();
    let paid = super::business::payment(1, 7, money(1_000));
    write_tx!(test.db, [paid], |tx| { payments::insert(tx, std::slice::from_ref(&paid)).await }).unwrap();

    let asks = (0..64_i64).map(|number| {
        let db = test.db.clone();
        // Each number twice.
        let wish = Wish {
            order_id: 7,
            refund_no: Some((number / 2).to_string()),
            amount: Some(money(70)),
            reason: "r".into(),
            trace: None,
        };
        tokio::spawn(async move { patiently(|| ask(db.clone(), vec![wish.clone()].into())).await.remove(0) })
    });
    let asks: Vec<_> = asks.collect();
    let mut taken = 0;
    for asked in asks {
        match asked.await.unwrap() {
            Asked::Taken(_) => taken += 1,
            Asked::Again(_) => {}
            Asked::Refused(Refusal::TooMuch(left)) => assert_eq!(left, money(20)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, 14);

    // Payment looks for itself: twice as many parts as there is money for.
    let channels = Channels::new(std::collections::BTreeMap::new());
    let parts = (0..64_i64).map(|number| {
        let (db, channels) = (test.db.clone(), channels.clone());
        tokio::spawn(async move {
            let write = || {
                let channels = channels.clone();
                db.write("test", move |tx| {
                    let channels = channels.clone();
                    Box::pin(async move {
                        let payment = payments::lock_by_id(tx, vec![1]).await?.remove(&1).unwrap();
                        let part = Part { id: 100 + number, amount: money(33), refused: None };
                        let wish = payment_refund::Wish { reason: "r".into(), trace: None };
                        payment_refund::part(tx, &channels, &payment, &part, &wish).await
                    })
                })
            };
            patiently(write).await;
        })
    });
    for part in parts.collect::<Vec<_>>() {
        part.await.unwrap();
    }
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM refund_record WHERE order_id = 7").await, 30);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM delivery WHERE order_id = 7").await, 30);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record WHERE topic = 'REFUND_FAILED'").await, 34);
}

/// What a database that was restored from a backup asks a channel for again has the number that the channel knows.
pub(super) async fn a_refund_that_is_made_anew_has_its_number(test: TestDb) {
    let channels = Channels::new(std::collections::BTreeMap::new());
    let wish = payment_refund::Wish { reason: "r".into(), trace: None };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let paid: Vec<_> = [1, 2].map(|id| super::business::payment(id, 6 + id, money(1_000))).into();
        write_tx!(test.db, [paid], |tx| { payments::insert(tx, &paid).await }).unwrap();
        // Both are payments of the same millisecond.
        write_tx!(test.db, [paid, channels, wish], |tx| {
            payment_refund::extra(tx, &channels, &paid[0], "T-2", &wish).await?;
            payment_refund::by_key(tx, &channels, &paid[0], Some(money(5)), "k", &wish).await?;
            payment_refund::rest(tx, &channels, &paid[0], &wish).await?;
            payment_refund::extra(tx, &channels, &paid[1], "T-2", &wish).await
        })
        .unwrap();
        let mut conn = test.db.read().await.unwrap();
        let text = "SELECT id FROM refund_record ORDER BY refund_key";
        let rows = sql::fetch(&mut conn, text, vec![]).await.unwrap();
        seen.push(rows.iter().map(|row| row.int(0).unwrap()).collect::<Vec<_>>());
        drop(conn);
        write_tx!(test.db, [], |tx| {
            for table in ["refund_record", "delivery", "payment_record"] {
                sql::execute(tx, format!("DELETE FROM {table}"), vec![]).await?;
            }
            Ok::<_, DbError>(())
        })
        .unwrap();
    }
    assert_eq!((&seen[0], seen[0].len()), (&seen[1], 4));
}
