//! Coupons: one order each, whatever happens at once, twice or too late.

use axum::http::{Method, StatusCode};
use ruyi::db::coupons::{self, Issued, Template};
use ruyi::db::products::{self, Product};
use ruyi::db::{Db, DbError, orders};
use ruyi::domain::coupon::{Kind, Refused, State, Terms};
use ruyi::domain::id::{Quantity, Sku, UserId};
use ruyi::domain::money::Money;
use ruyi::roles::order::place::{self, NewOrder, Placed};
use serde_json::{Value, json};

use crate::support::servers::{START_MS, TestDb, mariadb, mariadb_url, sqlite, write_tx};
use crate::support::shop::{Setup, Shop};

const USER: i64 = 1001;
const SOON_MS: i64 = 60_000;

/// A shop that sells 10 TEA at 29.90, and gives coupons of 5.00.
async fn open(setup: Setup) -> Shop {
    let shop = Shop::with(setup, 0).await;
    shop.sell("TEA", 2_990, 10).await;
    shop.template("FIVE", json!({})).await;
    shop
}

async fn order_with(shop: &Shop, coupon: &str, key: &str) -> (StatusCode, Value) {
    let items = json!([{ "sku": "TEA", "quantity": 2 }]);
    let body = json!({ "userId": USER.to_string(), "items": items, "couponId": coupon, "holdSeconds": 3_600 });
    shop.insist(Method::POST, "/orders", Some(key), Some(body)).await
}

async fn placed_with(shop: &Shop, coupon: &str, key: &str) -> String {
    let (status, order) = order_with(shop, coupon, key).await;
    assert_eq!(status, StatusCode::CREATED, "{order}");
    order["orderId"].as_str().unwrap().to_owned()
}

async fn refused_with(shop: &Shop, coupon: &str, key: &str) -> (u16, String) {
    let (status, problem) = order_with(shop, coupon, key).await;
    assert_eq!(problem["errors"][0]["field"], "couponId", "{problem}");
    let word = problem["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    (status.as_u16(), word)
}

/// The COUPON_* events of an order, in the order in which they were written.
async fn told(shop: &Shop, order: &str) -> Vec<String> {
    let rows = shop.rows("SELECT event_id FROM message_record WHERE topic LIKE 'COUPON%' ORDER BY id").await;
    let of_order = rows.into_iter().flatten().filter_map(|id| id.strip_prefix(&format!("{order}:")).map(str::to_owned));
    of_order.collect()
}

fn state(name: &str, order: Option<&str>) -> (String, Option<String>) {
    (name.to_owned(), order.map(str::to_owned))
}

async fn is_used_by_a_paid_order(mut shop: Shop) {
    let coupon = shop.coupon(USER, "FIVE").await;
    let (status, accepted) = order_with(&shop, &coupon, "k").await;
    assert_eq!(status, StatusCode::CREATED);
    let order = accepted["orderId"].as_str().unwrap().to_owned();
    let seen = shop.order(&order).await;
    for view in [&accepted, &seen] {
        assert_eq!(
            (&view["originalAmount"], &view["discountAmount"], &view["totalAmount"], &view["couponId"]),
            (&json!(59.8), &json!(5), &json!(54.8), &json!(coupon))
        );
    }
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("LOCKED", Some(&order)));
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.payment(&order).await.unwrap()["amount"], 54.8);
    shop.pay(&order, json!({ "repeat": 3 })).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("USED", Some(&order)));
    assert_eq!(told(&shop, &order).await, ["COUPON_LOCKED", "COUPON_USED"]);
    assert_eq!(shop.points(USER).await, 54);
    assert_eq!(refused_with(&shop, &coupon, "other").await, (409, "coupon-taken".to_owned()));
    shop.audit().await;
}

#[tokio::test]
async fn used_by_a_paid_order() {
    is_used_by_a_paid_order(open(Setup::default()).await).await;
}

#[tokio::test]
async fn used_once_though_all_comes_twice_and_in_reverse() {
    let mut shop = open(Setup::default()).await;
    (shop.manner.times, shop.manner.reversed) = (2, true);
    is_used_by_a_paid_order(shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_by_a_paid_order_on_mariadb() {
    let Some(url) = mariadb_url().await else { return };
    is_used_by_a_paid_order(open(Setup { url: Some(url), ..Setup::default() }).await).await;
}

/// Canceled by the user, for want of stock, by time, after paying: each gives the coupon back, and the next order may
/// have it.
#[tokio::test]
async fn released_however_an_order_is_canceled() {
    let mut shop = open(Setup::default()).await;
    let coupon = shop.coupon(USER, "FIVE").await;

    let by_user = placed_with(&shop, &coupon, "1").await;
    shop.cancel(&by_user).await;
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("AVAILABLE", None));
    shop.settle_within(SOON_MS).await;

    let items = json!({ "couponId": coupon });
    let sold_out = shop.place_order(USER, &[("TEA", 11)], items).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.order(&sold_out).await["cancelType"], "STOCK");
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("AVAILABLE", None));

    let after_paying = placed_with(&shop, &coupon, "2").await;
    shop.settle_within(SOON_MS).await;
    shop.pay(&after_paying, json!({})).await;
    shop.settle_within(SOON_MS).await;
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("USED", Some(&after_paying)));
    shop.cancel(&after_paying).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&after_paying).await, "REFUNDED");

    let by_time = placed_with(&shop, &coupon, "3").await;
    shop.settle().await;
    assert_eq!(shop.order(&by_time).await["cancelType"], "TIMEOUT");
    assert_eq!(shop.coupon_state(USER, &coupon).await, state("AVAILABLE", None));

    for order in [&by_user, &sold_out, &by_time] {
        assert_eq!(told(&shop, order).await, ["COUPON_LOCKED", "COUPON_RELEASED"]);
    }
    assert_eq!(told(&shop, &after_paying).await, ["COUPON_LOCKED", "COUPON_USED", "COUPON_RELEASED"]);
    shop.audit().await;
}

/// Only the time of ordering counts; what is released too late is its user's, and of no use.
#[tokio::test]
async fn time_ends_while_an_order_is_open() {
    let mut shop = open(Setup::default()).await;
    let (from, until) = (START_MS + 10_000, START_MS + 20_000);
    shop.template("SHORT", json!({ "validFrom": from, "validUntil": until })).await;
    let (paid, canceled) = (shop.coupon(USER, "SHORT").await, shop.coupon(USER, "SHORT").await);
    assert_eq!(refused_with(&shop, &paid, "early").await, (409, "coupon-not-valid".to_owned()));
    shop.clock.advance_ms(10_000);
    let order = placed_with(&shop, &paid, "1").await;
    let other = placed_with(&shop, &canceled, "2").await;
    shop.clock.advance_ms(10_000);
    shop.settle_within(SOON_MS).await;
    shop.pay(&order, json!({})).await;
    shop.cancel(&other).await;
    shop.settle().await;
    assert_eq!(shop.outcome(&order).await, "SIGNED");
    assert_eq!(shop.order(&order).await["discountAmount"], 5);
    assert_eq!(shop.coupon_state(USER, &paid).await, state("USED", Some(&order)));
    assert_eq!(shop.coupon_state(USER, &canceled).await, state("EXPIRED", None));
    assert_eq!(told(&shop, &other).await, ["COUPON_LOCKED", "COUPON_RELEASED"]);
    assert_eq!(refused_with(&shop, &canceled, "3").await, (409, "coupon-not-valid".to_owned()));
    let body = json!({ "userId": "1" });
    let (status, problem) = shop.request(Method::POST, "/coupons/SHORT/issue", None, Some(body)).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:ruyi:problem:coupon-closed")));
    shop.audit().await;
}

/// A repeated request locks nothing twice; one under the same key with another coupon is another request.
#[tokio::test]
async fn a_replay_locks_once() {
    let shop = open(Setup::default()).await;
    let coupon = shop.coupon(USER, "FIVE").await;
    let order = placed_with(&shop, &coupon, "k").await;
    for _ in 0..3 {
        assert_eq!(placed_with(&shop, &coupon, "k").await, order);
    }
    let (status, _) = order_with(&shop, &shop.coupon(USER, "FIVE").await, "k").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(told(&shop, &order).await, ["COUPON_LOCKED"]);
    assert_eq!(shop.count("SELECT COUNT(*) FROM coupon WHERE state = 1").await, 1);
    assert_eq!(shop.count("SELECT version FROM coupon WHERE state = 1").await, 2);
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let shop = open(Setup::default()).await;
    shop.template("LARGE", json!({ "kind": "THRESHOLD", "amountOff": 10, "minAmount": 59.81 })).await;
    let (large, of_another) = (shop.coupon(USER, "LARGE").await, shop.coupon(5, "FIVE").await);
    for coupon in ["12345", &of_another, &large] {
        assert_eq!(refused_with(&shop, coupon, "k").await, (422, "invalid".to_owned()), "{coupon}");
    }
    assert_eq!(shop.count("SELECT COUNT(*) FROM coupon WHERE state <> 0").await, 0);
    assert_eq!(shop.count("SELECT COUNT(*) FROM orders").await, 0);
    let bad = [
        (json!({ "amountOff": 0 }), "amountOff"),
        (json!({ "stock": 0 }), "stock"),
        (json!({ "perUser": 0 }), "perUser"),
        (json!({ "validUntil": 5, "validFrom": 5 }), "validUntil"),
        (json!({ "kind": "PERCENT", "amountOff": 0, "basisPoints": 10_001 }), "basisPoints"),
        (json!({ "kind": "THRESHOLD" }), "minAmount"),
        (json!({ "name": " " }), "name"),
    ];
    for (more, field) in bad {
        let mut body = json!({ "name": "n", "kind": "AMOUNT", "amountOff": 5, "stock": 10,
            "validUntil": "2099-01-01T00:00:00Z" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, problem) = shop.request(Method::PUT, "/coupons/BAD", None, Some(body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{more}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let (status, _) = shop.request(Method::GET, "/coupons/BAD", None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_user_s_coupons_page_by_page() {
    let shop = open(Setup::default()).await;
    let mut wanted = Vec::new();
    for _ in 0..5 {
        wanted.insert(0, shop.coupon(USER, "FIVE").await);
    }
    shop.coupon(5, "FIVE").await;
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("/coupons?userId={USER}&limit=2{next}");
        let (_, page) = shop.request(Method::GET, &path, None, None).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|one| one["couponId"].as_str().unwrap().to_owned()));
        let Some(before) = page["next"].as_str() else { break };
        next = format!("&before={before}");
    }
    assert_eq!(seen, wanted);
    let (_, template) = shop.request(Method::GET, "/coupons/FIVE", None, None).await;
    assert_eq!((&template["issued"], &template["kind"]), (&json!(6), &json!("AMOUNT")));
    // The key of an issue is the user's own.
    let issue = async |user: i64| {
        let body = json!({ "userId": user.to_string() });
        shop.request(Method::POST, "/coupons/FIVE/issue", Some("once"), Some(body)).await.1["couponId"].clone()
    };
    let first = issue(8).await;
    assert_eq!(issue(8).await, first);
    assert_ne!(issue(9).await, first);
    let body =
        json!({ "name": "n", "kind": "AMOUNT", "amountOff": 1, "stock": 7, "validUntil": "2099-01-01T00:00:00Z" });
    let (status, problem) = shop.request(Method::PUT, "/coupons/FIVE", None, Some(body)).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::CONFLICT, &json!("stock")));
}

/// An order with a coupon of this user.
fn wish(coupon: i64, key: &str) -> NewOrder {
    NewOrder {
        user_id: UserId(USER),
        items: vec![("TEA".parse::<Sku>().unwrap(), Quantity::try_from(2).unwrap())],
        remark: String::new(),
        address: String::new(),
        channel_id: "sandbox".to_owned(),
        coupon_id: Some(coupon),
        hold_ms: 0,
        pay_within_ms: 1_800_000,
        idempotency_key: Some(key.to_owned()),
        trace: None,
    }
}

async fn prepared(db: &Db, stock: i64, per_user: i64) {
    let amount_off = Money::from_minor(500).unwrap();
    let zero = Money::ZERO;
    let terms = Terms { kind: Kind::Amount, amount_off, basis_points: 0, max_off: None, min_amount: zero };
    let template = Template {
        template: "FIVE".into(),
        name: "n".into(),
        terms,
        stock,
        per_user,
        valid_from: 0,
        valid_until: i64::MAX,
        active: true,
        issued: 0,
    };
    let price = Money::from_minor(2_990).unwrap();
    let tea = Product { sku: "TEA".into(), name: "n".into(), price, currency: "CNY".into(), active: true };
    let done = write_tx!(db, [template, tea], |tx| {
        products::put(tx, &[tea], 1).await?;
        coupons::put(tx, &template).await
    });
    assert_eq!(done.unwrap().unwrap().stock, stock);
}

/// Who finds every connection in use, as on a machine that is busy with other work, tries again.
async fn issued(db: &Db, user: i64, key: Option<String>) -> Issued {
    loop {
        match write_tx!(db, [key], |tx| { coupons::issue(tx, "FIVE", user, key.as_deref()).await }) {
            Err(DbError::Busy) => {}
            issued => return issued.unwrap(),
        }
    }
}

async fn a_coupon(db: &Db) -> i64 {
    match issued(db, USER, None).await {
        Issued::New(coupon) => coupon.id,
        other => panic!("{other:?}"),
    }
}

/// As [`issued`].
async fn placed(db: Db, request: NewOrder) -> Placed {
    loop {
        match place::place(db.clone(), None, vec![request.clone()].into()).await {
            Err(DbError::Busy) => {}
            answers => return answers.unwrap().remove(0),
        }
    }
}

/// 64 attempts at one coupon at once, in transactions of their own: one order has it.
async fn one_of_64_orders(test: TestDb) {
    let db = &test.db;
    prepared(db, 10, 10).await;
    let coupon = a_coupon(db).await;
    let attempts = (0..64).map(|n| {
        // Pairs of attempts are one order: the same key.
        let request = wish(coupon, &format!("k{}", n / 2));
        tokio::spawn(placed(db.clone(), request))
    });
    let attempts: Vec<_> = attempts.collect();
    let (mut created, mut replayed, mut refused) = (vec![], vec![], 0);
    for attempt in attempts {
        match attempt.await.unwrap() {
            Placed::Created(order) => created.push(order),
            Placed::Replayed(order) => replayed.push(order),
            Placed::Coupon(Refused::Locked) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((created.len(), replayed.len(), refused), (1, 1, 62));
    assert_eq!((created[0].id, created[0].state.total.minor()), (replayed[0].id, 5_480));
    let mut conn = db.read().await.unwrap();
    let held = coupons::get(&mut conn, coupon).await.unwrap().unwrap().held;
    assert_eq!((held.state, held.order_id), (State::Locked, Some(created[0].id)));
    let all = orders::list(&mut conn, &orders::Filter { limit: 100, ..orders::Filter::default() }).await.unwrap();
    assert_eq!(all.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_orders_on_sqlite() {
    one_of_64_orders(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_orders_on_mariadb() {
    if let Some(test) = mariadb().await {
        one_of_64_orders(test).await;
    }
}

/// 64 wishes at once: neither the stock of a template nor the limit of a user is exceeded.
async fn limits_hold(test: TestDb) {
    let db = &test.db;
    prepared(db, 10, 3).await;
    let wishes: Vec<_> = (0..64)
        .map(|n| {
            let db = db.clone();
            // Five users; every other wish of a user repeats the one before.
            tokio::spawn(async move { (n % 5, issued(&db, n % 5 + 1, Some(format!("w{}", n / 10))).await) })
        })
        .collect();
    let mut of_user = [0; 5];
    for wish in wishes {
        let (user, outcome) = wish.await.unwrap();
        match outcome {
            Issued::New(_) => of_user[usize::try_from(user).unwrap()] += 1,
            Issued::Replayed(_) | Issued::OutOfStock | Issued::UserLimit => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(of_user.iter().sum::<i32>(), 10, "{of_user:?}");
    assert!(of_user.iter().all(|count| *count <= 3), "{of_user:?}");
    let mut conn = db.read().await.unwrap();
    assert_eq!(coupons::template(&mut conn, "FIVE").await.unwrap().unwrap().issued, 10);
    let mut rows = 0;
    for user in 1..=5 {
        rows += coupons::of_user(&mut conn, user, i64::MAX, 100).await.unwrap().len();
    }
    assert_eq!(rows, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_on_sqlite() {
    limits_hold(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_on_mariadb() {
    if let Some(test) = mariadb().await {
        limits_hold(test).await;
    }
}

/// Two orders for one coupon in one batch of the writer: one has it, one is refused, the others go on.
#[tokio::test]
async fn two_orders_for_one_coupon_in_one_batch() {
    let test = sqlite().await;
    prepared(&test.db, 10, 10).await;
    let coupon = a_coupon(&test.db).await;
    let without = |key: &str| NewOrder { coupon_id: None, ..wish(coupon, key) };
    let batch = vec![without("a"), wish(coupon, "b"), wish(coupon, "c"), wish(coupon, "b"), without("d")];
    let answers = place::place(test.db.clone(), None, batch.into()).await.unwrap();
    let id = |answer: &Placed| match answer {
        Placed::Created(order) | Placed::Replayed(order) => order.id,
        other => panic!("{other:?}"),
    };
    assert!(matches!(answers[2], Placed::Coupon(Refused::Locked)), "{answers:?}");
    assert!(matches!(answers[3], Placed::Replayed(_)) && id(&answers[3]) == id(&answers[1]), "{answers:?}");
    let mut conn = test.db.read().await.unwrap();
    let wanted = vec![id(&answers[0]), id(&answers[1]), id(&answers[4])];
    let all = orders::by_ids(&mut conn, wanted).await.unwrap();
    let mut totals: Vec<_> = all.iter().map(|order| order.state.total.minor()).collect();
    totals.sort_unstable();
    assert_eq!(totals, [5_480, 5_980, 5_980]);
}
