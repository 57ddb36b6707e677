//! A machine whose clock is an hour wrong: its process works by the time of the database, and tells.

use reqwest::Method;
use ruyi::clock::Clock;
use ruyi::db::migrate;
use serde_json::json;

use crate::support::servers::mariadb_url;
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

const HOUR_S: i64 = 3_600;
/// The question to the server may take so long, on however slow a machine.
const SLOW_S: i64 = 60;

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
