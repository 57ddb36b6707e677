//! The view of orders that is searched.

use std::collections::BTreeMap;

use ruyi::db::order_view::{self, Found, Search};
use ruyi::domain::event::OrderDataSync;
use ruyi::domain::id::{MerchantId, OrderId, UserId, first_id_of};
use ruyi::domain::money::Money;
use ruyi::domain::order::{Outcome, Status};

use crate::support::servers::{START_MS, TestDb, count, write_tx};

const MINUTE_MS: i64 = 60_000;

fn at(minute: i64) -> i64 {
    START_MS + minute * MINUTE_MS
}

fn id(minute: i64) -> i64 {
    first_id_of(at(minute), 1)
}

fn told(minute: i64, version: i64, status: Status) -> OrderDataSync {
    let lines = BTreeMap::from([(if minute % 2 == 0 { "TEA-1" } else { "CUP" }.to_owned(), 1), ("Pot".to_owned(), 2)]);
    OrderDataSync {
        order_id: OrderId(id(minute)),
        order_no: format!("RY{}", id(minute)),
        user_id: UserId(minute % 3 + 1),
        status,
        outcome: Outcome::Open,
        version,
        total_amount: Money::from_minor(100).unwrap(),
        currency: "CNY".to_owned(),
        merchant_id: MerchantId(1),
        channel_id: "sandbox".to_owned(),
        remark: if minute < 5 { format!("Bitte läuten {minute}") } else { String::new() },
        cancel_reason: String::new(),
        created_at: at(minute),
        updated_at: at(minute) + version,
        product_quantity_map: (version == 1).then_some(lines),
    }
}

async fn learn(test: &TestDb, all: Vec<OrderDataSync>) -> Vec<(i64, i64)> {
    let mut known: Vec<_> =
        write_tx!(test.db, [all], |tx| { order_view::learn(tx, &all).await }).unwrap().into_iter().collect();
    known.sort_unstable();
    known
}

pub(super) async fn the_newest_version_is_shown(test: TestDb) {
    // Late, repeated and out of order, within a batch and between batches.
    let one = |version, status| told(1, version, status);
    let first = vec![one(2, Status::Reserved), told(2, 1, Status::Created), one(2, Status::Reserved)];
    assert_eq!(learn(&test, first).await, [(id(1), 2), (id(2), 1)]);
    let second = vec![one(1, Status::Created), told(2, 3, Status::Paid), told(2, 2, Status::Reserved)];
    assert_eq!(learn(&test, second.clone()).await, [(id(1), 2), (id(2), 3)]);
    assert_eq!(learn(&test, second).await, [(id(1), 2), (id(2), 3)]);
    let mut conn = test.db.read().await.unwrap();
    let mut shown = order_view::get(&mut conn, vec![id(1), id(2), id(3)]).await.unwrap();
    shown.sort_by_key(|order| order.order_id);
    assert_eq!(shown, [one(2, Status::Reserved), told(2, 3, Status::Paid)]);
    drop(conn);
    // Terms come with the first version, however late, once each.
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM order_view_term").await, 6);
    // As it is: a greater version that was seen goes, one that was not stays.
    let done = write_tx!(test.db, [], |tx| {
        order_view::replace(tx, &told(2, 2, Status::Canceled), Some(3)).await?;
        order_view::replace(tx, &told(1, 1, Status::Canceled), Some(1)).await?;
        order_view::replace(tx, &told(3, 7, Status::Signed), None).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let known = order_view::versions(&mut conn, vec![id(1), id(2), id(3)]).await.unwrap();
    let mut known: Vec<_> = known.into_iter().collect();
    known.sort_unstable();
    assert_eq!(known, [(id(1), 2), (id(2), 2), (id(3), 7)]);
    assert_eq!(order_view::get(&mut conn, vec![]).await.unwrap(), []);
}

async fn found(test: &TestDb, search: Search) -> Vec<i64> {
    let mut conn = test.db.read().await.unwrap();
    let before_id = if search.before_id == 0 { i64::MAX } else { search.before_id };
    let limit = if search.limit == 0 { 100 } else { search.limit };
    match order_view::search(&mut conn, &Search { before_id, limit, ..search }).await.unwrap() {
        Found::Orders(rows) => rows.iter().map(|row| (row.created_at - START_MS) / MINUTE_MS).collect(),
        Found::TooMany => panic!("too many"),
    }
}

pub(super) async fn orders_are_searched_page_by_page(test: TestDb) {
    let status = |minute| if minute % 4 == 0 { Status::Paid } else { Status::Created };
    learn(&test, (0..600).map(|minute| told(minute, 1, status(minute))).collect()).await;
    let all = Search::default;
    let text = |text: &str| Search { text: Some(text.to_owned()), ..all() };
    assert_eq!(found(&test, Search { limit: 3, ..all() }).await, [599, 598, 597]);
    assert_eq!(found(&test, Search { limit: 2, before_id: id(597), ..all() }).await, [596, 595]);
    assert_eq!(found(&test, Search { limit: 2, status: Some(Status::Paid), ..all() }).await, [596, 592]);
    assert_eq!(found(&test, Search { limit: 2, user_id: Some(1), ..all() }).await, [597, 594]);
    let span = Search { from_ms: Some(at(7)), to_ms: Some(at(10)), ..all() };
    assert_eq!(found(&test, span.clone()).await, [9, 8, 7]);
    assert_eq!(found(&test, Search { user_id: Some(3), ..span.clone() }).await, [8]);
    // By id, number, SKU and the beginning of the remark, in any case.
    for one in [id(42).to_string(), format!("RY{}", id(42)), format!("ry{}", id(42))] {
        assert_eq!(found(&test, text(&one)).await, [42], "{one}");
    }
    assert_eq!(found(&test, text("bitte LÄUTEN")).await, [4, 3, 2, 1, 0]);
    assert_eq!(found(&test, Search { user_id: Some(2), ..text("bitte") }).await, [4, 1]);
    assert_eq!(found(&test, text("läuten")).await, Vec::<i64>::new());
    assert_eq!(found(&test, text("tea")).await, Vec::<i64>::new(), "a SKU is said in full");
    for odd in ["%", "_", "'", "", "RY", "99999999999999999999999"] {
        assert_eq!(found(&test, text(odd)).await, Vec::<i64>::new(), "{odd}");
    }
    // A SKU of all orders, page by page, also where a filter leaves few of many.
    let (mut before_id, mut seen) = (0, Vec::new());
    loop {
        let page = found(&test, Search { before_id, limit: 97, ..text("pot") }).await;
        let Some(last) = page.last() else { break };
        before_id = id(*last);
        seen.extend(page);
    }
    assert_eq!(seen, (0..600).rev().collect::<Vec<_>>());
    assert_eq!(found(&test, Search { to_ms: Some(at(3)), ..text("TEA-1") }).await, [2, 0]);
    // However few of its orders a filter leaves, and however few of a filter's orders have it.
    for (user_id, status, sku) in
        [(Some(2), None, "pot"), (None, Some(Status::Paid), "pot"), (Some(1), Some(Status::Created), "cup")]
    {
        let (mut before_id, mut seen) = (0, Vec::new());
        loop {
            let page = found(&test, Search { before_id, limit: 13, user_id, status, ..text(sku) }).await;
            let Some(last) = page.last() else { break };
            before_id = id(*last);
            seen.extend(page);
        }
        let of = |minute: &i64| {
            user_id.is_none_or(|user| minute % 3 + 1 == user)
                && status.is_none_or(|wanted| (minute % 4 == 0) == (wanted == Status::Paid))
                && (sku == "pot" || minute % 2 == 1)
        };
        assert_eq!(seen, (0..600).rev().filter(of).collect::<Vec<_>>(), "{sku}");
    }
    let day = Search { from_ms: Some(at(500)), to_ms: Some(at(504)), user_id: Some(1), ..text("pot") };
    assert_eq!(found(&test, day).await, [501]);
    assert_eq!(found(&test, Search { user_id: Some(2), ..text(&id(43).to_string()) }).await, [43]);
    assert_eq!(found(&test, Search { user_id: Some(1), ..text(&id(43).to_string()) }).await, Vec::<i64>::new());
}
