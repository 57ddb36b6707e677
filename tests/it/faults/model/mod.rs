//! Random orders, commands and failures against a small model of what must come of them, and three fixed schedules:
//! everything twice, everything in reverse, and a failure at every point of every transaction once.
//!
//! `RUYI_TEST_SEEDS=<n>` runs so many seeds, `RUYI_TEST_SEED=<n>` only that one.

mod merchant;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use rand::RngExt;
use ruyi::fault::{Faults, TRANSACTIONS};
use serde_json::json;

use crate::support::number;
use crate::support::shop::{Setup, Shop, Trouble};
use plan::{Plan, Run};

/// Seeds of a run that is not told otherwise.
const SEEDS: u64 = 200;
/// Steps by chance before everything is healed.
const STEPS: usize = 60;
/// So far a clock that is set while the program runs jumps, to either side.
const JUMP_MS: i64 = 600_000;

#[test]
fn whatever_happens_every_order_ends_as_the_model_says() {
    let (first, last) = match number("RUYI_TEST_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("RUYI_TEST_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failed.lock().unwrap().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let ended = runtime.block_on(AssertUnwindSafe(one_seed(seed)).catch_unwind());
                    if ended.is_err() {
                        eprintln!("rerun with: RUYI_TEST_SEED={seed} cargo test --test it model::whatever");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failing seeds: {failed:?}; rerun one with RUYI_TEST_SEED=<seed>");
}

async fn one_seed(seed: u64) {
    // A third of the seeds each: everything works, transactions fail, handlers fail, or are given up, as well.
    let (transactions, handlers) = [(0.0, 0.0), (0.06, 0.0), (0.04, 0.08)][(seed % 3) as usize];
    let trouble = Trouble::new(seed, transactions, handlers);
    let wrapping = trouble.clone();
    // In half of the runs orders and payments believe that they have databases of their own: they talk by events only.
    let apart = (seed / 3 % 2 == 1).then(|| "database.roles.payment=sqlite://elsewhere.db".to_owned());
    let setup = Setup {
        faults: trouble.faults(),
        wrap: Box::new(move |handler| wrapping.around(handler)),
        given_up: trouble.given_up(),
        // What waits for something that is held up must not be given up before it comes.
        change: |config| config.mq.retry.max_attempts = 60,
        settings: apart.into_iter().collect(),
        ..Setup::default()
    };
    let mut shop = Shop::with(setup, seed).await;
    shop.manner.times = shop.chance.random_range(1..=2);
    shop.manner.reversed = shop.chance.random_bool(0.3);
    shop.manner.batch = [1, 3, 256][shop.chance.random_range(0..3)];
    // And in half of these the clock of the machine is set again and again.
    let clock_is_set = seed / 6 % 2 == 1;
    let mut run = Run::begin(Plan::random(&mut shop.chance), &shop).await;
    for _ in 0..STEPS {
        if clock_is_set && shop.chance.random_bool(0.1) {
            shop.clock.advance_ms(shop.chance.random_range(-JUMP_MS..=JUMP_MS));
        }
        if shop.chance.random_bool(0.25) {
            run.one_command(&mut shop).await;
        } else {
            shop.chance_turn().await;
        }
    }
    trouble.heal();
    finish(&mut shop, &mut run).await;
}

/// Lets everything come to rest that does not wait for the payer; channels that say nothing are asked.
async fn settled(shop: &mut Shop) {
    shop.settle_within(plan::SOON_MS).await;
}

/// Lets everything come to rest, and compares it with the model.
async fn finish(shop: &mut Shop, run: &mut Run) {
    settled(shop).await;
    while run.one_command(shop).await {
        settled(shop).await;
    }
    shop.settle().await;
    shop.audit().await;
    run.check(shop).await;
}

/// One order of each kind, placed and paid without any chance; what came of all of it.
async fn fixed(mut shop: Shop) -> BTreeMap<String, String> {
    shop.manner.batch = 3;
    let mut run = Run::begin(Plan::one_of_each(), &shop).await;
    while run.place_next(&mut shop).await {}
    finish(&mut shop, &mut run).await;
    run.summary(&shop).await
}

#[tokio::test]
async fn everything_twice() {
    let clean = fixed(Shop::open().await).await;
    let mut shop = Shop::open().await;
    shop.manner.times = 2;
    assert_eq!(fixed(shop).await, clean);
}

#[tokio::test]
async fn everything_in_reverse() {
    let clean = fixed(Shop::open().await).await;
    let mut shop = Shop::open().await;
    shop.manner.reversed = true;
    assert_eq!(fixed(shop).await, clean);
}

/// At each point where a transaction begins to end or has ended, the first passage fails; the second goes through.
#[tokio::test]
async fn a_failure_at_every_point_once() {
    let clean = fixed(Shop::open().await).await;
    let seen: Arc<Mutex<BTreeSet<(String, String)>>> = Arc::default();
    let points = Arc::clone(&seen);
    let faults =
        Faults::plan(Box::new(move |name, stage| points.lock().unwrap().insert((name.to_owned(), stage.to_owned()))));
    let setup = Setup { faults, ..Setup::default() };
    assert_eq!(fixed(Shop::with(setup, 0).await).await, clean);
    let seen = seen.lock().unwrap();
    for name in TRANSACTIONS {
        // Nothing is parked on the way of these orders, and so nothing is tried again; node numbers, products and spending are no
        // part of it.
        let unused = matches!(name, "retry" | "retry_claim" | "node" | "product_set" | "points_spend" | "contact_set");
        for stage in ["before_commit", "after_commit"] {
            let reached = seen.contains(&(name.to_owned(), stage.to_owned()));
            assert!(unused || reached, "{name}.{stage} was not reached");
        }
    }
    for point in [("relay", "published"), ("delivery", "called"), ("consume", "acknowledge")] {
        assert!(seen.contains(&(point.0.to_owned(), point.1.to_owned())), "{point:?} was not reached");
    }
}

/// An order by an idempotency key that is repeated while the first answer is in doubt is placed once.
#[tokio::test]
async fn a_request_in_doubt_is_repeated_without_harm() {
    let mut left = 3;
    let faults = Faults::plan(Box::new(move |name, stage| {
        let fails = name == "create_order" && stage == "after_commit" && left > 0;
        left -= i32::from(fails);
        fails
    }));
    let mut shop = Shop::with(Setup { faults, ..Setup::default() }, 0).await;
    shop.sell("TEA", 1_000, 5).await;
    let order = shop.place_order(1, &[("TEA", 1)], json!({})).await;
    shop.settle_within(60_000).await;
    assert_eq!((shop.count("SELECT COUNT(*) FROM orders").await, shop.stock("TEA").await), (1, (4, 1, 0)));
    assert_eq!(shop.status(&order).await, "RESERVED");
}
