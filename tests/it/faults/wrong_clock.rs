//! A machine whose clock is an hour wrong: its process works by the time of the database, and tells.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use ruyi::clock::Clock;
use ruyi::db::migrate;
use serde_json::json;

use crate::support::recovery::{Callers, Moment, Readiness, are_all, none_lost_or_doubled};
use crate::support::servers::mariadb_url;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

const HOUR_S: i64 = 3_600;
/// The question to the server may take so long, on however slow a machine.
const SLOW_S: i64 = 60;
/// A short time to pay, and a long one that is shorter than the clocks are wrong.
const SOON: Duration = Duration::from_secs(6);
const LATER: Duration = Duration::from_secs(1_800);
/// Clocks that agree differ by less, with what the question costs.
const AGREE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_told_and_changes_nothing() {
    for wrong_s in [HOUR_S, -HOUR_S] {
        let Some(url) = mariadb_url().await else { return };
        migrate::run(&url).await.unwrap();
        let database = format!("database.url={url}");
        let serving =
            Serving::planned("127.0.0.1:0", &[&database], |plan| plan.clock = Clock::wrong_by(wrong_s * 1_000)).await;
        serving.fill().await;

        let id = serving.place(&json!({"userId": "7", "items": [{"sku": "A1", "quantity": 2}]})).await;
        serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
        serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;

        // Told with the status of one that is ready.
        let ready = serving.get("/readyz").await;
        let told = ready["checks"]["clock"].as_str().unwrap();
        let off_s = told.strip_prefix("the machine's clock is off by ").and_then(|rest| rest.split(' ').next());
        let off_s: i64 = off_s.unwrap_or_else(|| panic!("{told}")).parse().unwrap();
        assert!((off_s - wrong_s).abs() < SLOW_S, "{told}");
        let gauge = async || {
            let metrics = serving.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
            let line = metrics.lines().find_map(|line| line.strip_prefix("ruyi_clock_skew_seconds "));
            line.map_or(0, |value| value.parse::<i64>().unwrap())
        };
        eventually("the gauge tells how far the database is ahead", async || (gauge().await + wrong_s).abs() < SLOW_S)
            .await;
        serving.stop().await;
    }
}

/// Processes of one database, of which the first has a clock that is right.
struct Instances {
    clocks: [Clock; 3],
    servings: Vec<Serving>,
}

impl Instances {
    async fn start(url: &str) -> Self {
        migrate::run(url).await.unwrap();
        let database = format!("database.url={url}");
        let clocks = [0, HOUR_S, -HOUR_S].map(|wrong_s| Clock::wrong_by(wrong_s * 1_000));
        let mut servings = Vec::new();
        for clock in &clocks {
            let settings = [database.as_str(), "cache.ttl=0s"];
            let serving = Serving::planned("127.0.0.1:0", &settings, |plan| plan.clock = clock.clone());
            servings.push(serving.await);
        }
        servings[0].fill().await;
        Self { clocks, servings }
    }

    fn right(&self) -> &Serving {
        &self.servings[0]
    }

    /// An order at each of them that is to be paid within `time`; and when it was asked for.
    async fn place_at_each(&self, time: Duration) -> BTreeMap<String, Moment> {
        let mut placed = BTreeMap::new();
        let order = json!({"userId": "7", "items": [{"sku": "B2", "quantity": 1}], "payWithinSeconds": time.as_secs()});
        for serving in &self.servings {
            let asked = Moment::now();
            placed.insert(serving.place(&order).await, asked);
        }
        placed
    }

    /// Pays an order at the process of this number.
    async fn pay(&self, number: usize, id: &str) {
        let serving = &self.servings[number % self.servings.len()];
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({"method": "card"})).await;
    }
}

/// Fails where one of these orders is canceled before its time; whether all of them are.
async fn are_canceled_in_time(serving: &Serving, orders: &BTreeMap<String, Moment>) -> bool {
    let mut canceled = 0;
    for (id, placed) in orders {
        if serving.get(&format!("/orders/{id}")).await["status"] == "CANCELED" {
            let waited = placed.elapsed();
            assert!(waited > SOON.saturating_sub(AGREE), "{id} was canceled after {waited:?} of {SOON:?}");
            canceled += 1;
        }
    }
    canceled == orders.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_off_leaves_the_orders_of_others() {
    let Some(url) = mariadb_url().await else { return };
    let instances = Instances::start(&url).await;
    let Instances { clocks, servings } = &instances;
    let watched: Vec<Readiness> = servings.iter().map(Readiness::watch).collect();
    let callers = Callers::start(2, &servings.iter().collect::<Vec<_>>());
    let (mut soon, mut later) = (instances.place_at_each(SOON).await, instances.place_at_each(LATER).await);

    // The wrong clocks are set while the processes run, and are as wrong then as they were, in the other direction.
    clocks[1].set_wrong_by(-HOUR_S * 1_000);
    clocks[2].set_wrong_by(HOUR_S * 1_000);
    let last = Moment::now();
    soon.append(&mut instances.place_at_each(SOON).await);
    later.append(&mut instances.place_at_each(LATER).await);

    let are_over = async || are_canceled_in_time(instances.right(), &soon).await;
    last.within(SOON + Duration::from_secs(15), "who has not paid in time is canceled", are_over).await;
    let later: Vec<String> = later.into_keys().collect();
    let (paid, open) = later.split_at(later.len() / 2);
    for (number, id) in paid.iter().enumerate() {
        instances.pay(number, id).await;
    }
    eventually("who pays has it sent", async || are_all(instances.right(), paid, "outcome", "SIGNED").await).await;
    assert!(are_all(instances.right(), open, "status", "RESERVED").await, "nobody else is canceled");

    for (number, readiness) in watched.into_iter().enumerate() {
        let answers = readiness.stop().await.all_ready();
        let told = answers.iter().filter(|answer| answer.checks["clock"] != "ok").count();
        assert_eq!(told, if number == 0 { 0 } else { answers.len() }, "a wrong clock is told where it is: {number}");
    }
    for clock in clocks {
        clock.set_wrong_by(0);
    }
    let ended = Moment::now();
    for serving in servings {
        let is_right = async || serving.get("/readyz").await["checks"]["clock"] == "ok";
        ended.as_before("no clock is told of", is_right).await;
    }
    assert!(are_all(instances.right(), open, "status", "RESERVED").await, "nor now");

    assert_eq!(callers.refused(), 0);
    let accepted = callers.stop().await;
    none_lost_or_doubled(instances.right(), &accepted).await;
    for serving in instances.servings {
        serving.stop().await;
    }
}
