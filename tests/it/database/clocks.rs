//! Machines whose clocks are wrong: the time of the database counts.

use ruyi::clock::Clock;
use ruyi::config::Config;
use ruyi::db::orders::{self, OrderRow};
use ruyi::db::{Db, Options};
use ruyi::fault::Faults;
use ruyi::progress::Progress;
use ruyi::roles::order::timeout::Timeouts;

use super::business;
use crate::support::servers::{TestDb, mariadb, write_tx};

const HOUR_MS: i64 = 3_600_000;
/// Nothing takes so long, on however slow a machine.
const SLOW_MS: i64 = 300_000;

async fn with_clock(test: &TestDb, clock: Clock) -> Db {
    let options = Options { url: test.url.clone(), max_connections: 2, clock, faults: Faults::none() };
    Db::open(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_ahead_or_behind_is_corrected() {
    let Some(test) = mariadb().await else { return };
    for wrong_ms in [HOUR_MS, -HOUR_MS] {
        let db = with_clock(&test, Clock::wrong_by(wrong_ms)).await;
        assert!((db.follow_server().await.unwrap() + wrong_ms).abs() < SLOW_MS);
        let now_ms = write_tx!(db, [], |tx| { Ok(tx.now_ms()) }).unwrap();
        assert!((now_ms - Clock::system().now_ms()).abs() < SLOW_MS, "what is written has the time of the server");
    }
    // One that is set while the process runs, which nobody has told the process.
    let clock = Clock::wrong_by(0);
    let db = with_clock(&test, clock.clone()).await;
    assert_eq!(db.follow_server().await.unwrap(), 0);
    for wrong_ms in [HOUR_MS, -HOUR_MS, 0] {
        clock.set_wrong_by(wrong_ms);
        let now_ms = write_tx!(db, [], |tx| { Ok(tx.now_ms()) }).unwrap();
        assert!((now_ms - Clock::system().now_ms()).abs() < SLOW_MS, "{wrong_ms}");
    }
    let right = with_clock(&test, Clock::wrong_by(300)).await;
    assert_eq!(right.follow_server().await.unwrap(), 0, "clocks that agree are left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_clock_cancels_no_order_of_others() {
    let Some(test) = mariadb().await else { return };
    let expire_time = Clock::system().now_ms() + HOUR_MS / 2;
    let order = OrderRow { expire_time, ..business::order(1) };
    write_tx!(test.db, [order], |tx| { orders::insert(tx, &[(order, vec![])]).await }).unwrap();

    let fast = with_clock(&test, Clock::wrong_by(HOUR_MS)).await;
    let timeouts = Timeouts::new(fast.clone(), &Config::example().unwrap());
    fast.follow_server().await.unwrap();
    assert_eq!(timeouts.step().await.unwrap(), Progress::WaitUntil(expire_time));
}
