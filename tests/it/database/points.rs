//! What users have, what they owe, and their books.

use ruyi::db::points::{self, Place, Record, Source, Spent};
use ruyi::domain::points::{Kind, Standing};

use crate::support::servers::{TestDb, count, write_tx};

async fn change(test: &TestDb, order_id: i64, kind: Kind, points: i64) -> Standing {
    let record = Record { order_id, kind, user_id: 7, points };
    write_tx!(test.db, [record], |tx| { points::apply(tx, &[record]).await }).unwrap();
    points::standing(&mut test.db.read().await.unwrap(), 7).await.unwrap()
}

async fn spend(test: &TestDb, points: i64, key: &'static str) -> Spent {
    write_tx!(test.db, [], |tx| { points::spend(tx, 7, points, "mug", key).await }).unwrap()
}

fn standing(balance: i64, shortfall: i64) -> Standing {
    Standing { balance, shortfall }
}

pub(super) async fn a_shortfall_is_paid_back_first(test: TestDb) {
    assert_eq!(change(&test, 1, Kind::Grant, 50).await, standing(50, 0));
    assert!(matches!(spend(&test, 30, "a").await, Spent::New { balance: 20, .. }));
    // The money of the order goes back, and 30 of its points are gone.
    assert_eq!(change(&test, 1, Kind::Reverse, -50).await, standing(0, 30));
    assert_eq!(spend(&test, 1, "b").await, Spent::TooFew { balance: 0 });
    assert_eq!(change(&test, 2, Kind::Grant, 10).await, standing(0, 20));
    assert_eq!(change(&test, 3, Kind::Grant, 25).await, standing(5, 0));
    // All at once, and more than one user.
    let record = |user_id, order_id, points| Record { order_id, kind: Kind::Grant, user_id, points };
    let many: Vec<_> = (0..600).map(|n| record(n % 5 + 100, 1_000 + n, if n % 3 == 0 { -7 } else { 2 })).collect();
    write_tx!(test.db, [many], |tx| { points::apply(tx, &many).await }).unwrap();
    let text = "SELECT CAST(COALESCE(SUM(balance - shortfall), 0) AS SIGNED) FROM user_points WHERE user_id >= 100";
    assert_eq!(count(&test.db, text).await, -200 * 7 + 400 * 2);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM user_points WHERE balance < 0 OR shortfall < 0").await, 0);
}

pub(super) async fn spent_once_and_never_too_much(test: TestDb) {
    change(&test, 1, Kind::Grant, 50).await;
    let Spent::New { record_id, balance: 40 } = spend(&test, 10, "k").await else { panic!() };
    assert_eq!(spend(&test, 10, "k").await, Spent::Replayed { record_id, balance: 40 });
    assert_eq!(spend(&test, 11, "k").await, Spent::KeyReused);
    // 64 at once, in pairs with one key, of 5 each: there is enough for 8.
    let wishes: Vec<_> = (0..64)
        .map(|n| {
            let db = test.db.clone();
            tokio::spawn(async move {
                let key = format!("w{}", n / 2);
                write_tx!(db, [key], |tx| { points::spend(tx, 7, 5, "", &key).await }).unwrap()
            })
        })
        .collect();
    let mut new = 0;
    for wish in wishes {
        match wish.await.unwrap() {
            Spent::New { .. } => new += 1,
            Spent::Replayed { .. } | Spent::TooFew { .. } => {}
            Spent::KeyReused => panic!(),
        }
    }
    assert_eq!(new, 8);
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(points::standing(&mut conn, 7).await.unwrap(), standing(0, 0));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM points_source").await, 9);
}

pub(super) async fn the_book_page_by_page(test: TestDb) {
    for order_id in 1..=3 {
        change(&test, order_id, Kind::Grant, 10 * order_id).await;
        change(&test, order_id, Kind::Correct, 1).await;
    }
    test.clock.advance_ms(5);
    let gift = Record { order_id: 900, kind: Kind::Gift, user_id: 7, points: 4 };
    let source = Source { record_id: 900, source: "e".into(), order_id: Some(2), reason: "größe 😀".into() };
    let done = write_tx!(test.db, [gift, source], |tx| {
        points::apply(tx, &[gift]).await?;
        points::note_sources(tx, &[source]).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(points::known_sources(&mut conn, vec!["e".into(), "f".into()]).await.unwrap(), ["e".to_owned()].into());
    let (mut seen, mut after) = (Vec::new(), Place::NEWEST);
    loop {
        let page = points::history(&mut conn, 7, after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.place();
        seen.extend(page.into_iter().map(|one| (one.record.kind, one.order_id, one.reason)));
    }
    let plain = |kind, order_id| (kind, Some(order_id), String::new());
    let wanted = [
        (Kind::Gift, Some(2), "größe 😀".to_owned()),
        plain(Kind::Correct, 3),
        plain(Kind::Grant, 3),
        plain(Kind::Correct, 2),
        plain(Kind::Grant, 2),
        plain(Kind::Correct, 1),
        plain(Kind::Grant, 1),
    ];
    assert_eq!(seen, wanted);
    // What is not an order's is not taken for one.
    let found = write_tx!(test.db, [], |tx| { points::lock_of_orders(tx, vec![900, 1]).await }).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&1]);
}
