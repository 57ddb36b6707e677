//! What can be seen of a shop, mostly as a user sees it.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use ruyi::audit::{self, RoleDbs};
use ruyi::db::sql::{self, Columns};
use ruyi::vals;
use serde_json::Value;

use super::Shop;

/// Nothing is given any time.
pub const STRICT: audit::Options = audit::Options {
    settle_ms: 0,
    bound_ms: 0,
    parcel_bound_ms: 1_000_000_000,
    zone: jiff::tz::TimeZone::UTC,
    page: 100,
    evidence: 20,
    events_kept_ms: i64::MAX,
    data_sync: true,
};

impl Shop {
    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(Method::GET, path, None, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub async fn order(&self, order: &str) -> Value {
        self.get(&format!("/orders/{order}")).await
    }

    /// (state, order) of a coupon of a user.
    pub async fn coupon_state(&self, user: i64, coupon: &str) -> (String, Option<String>) {
        let page = self.get(&format!("/coupons?userId={user}&limit=100")).await;
        let found = page["items"].as_array().unwrap().iter().find(|one| one["couponId"] == coupon).unwrap();
        (found["state"].as_str().unwrap().to_owned(), found["orderId"].as_str().map(str::to_owned))
    }

    /// Where an order stands: OPEN, SIGNED, CANCELED or REFUNDED.
    pub async fn outcome(&self, order: &str) -> String {
        self.order(order).await["outcome"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, order: &str) -> String {
        self.order(order).await["status"].as_str().unwrap().to_owned()
    }

    /// Its payment's state; `None` where none was opened.
    pub async fn payment(&self, order: &str) -> Option<Value> {
        let (status, body) = self.request(Method::GET, &format!("/payments/{order}"), None, None).await;
        (status == StatusCode::OK).then_some(body)
    }

    /// (kind, status) of the refunds of an order, sorted.
    pub async fn refunds(&self, order: &str) -> Vec<(String, String)> {
        let Some(payment) = self.payment(order).await else { return vec![] };
        let text = |refund: &Value, field: &str| refund[field].as_str().unwrap().to_owned();
        let refunds = payment["refunds"].as_array().unwrap();
        let mut all: Vec<_> = refunds.iter().map(|one| (text(one, "kind"), text(one, "status"))).collect();
        all.sort();
        all
    }

    /// What of an order's money went back, as its role tells.
    pub async fn refunds_of(&self, order: &str) -> Value {
        self.get(&format!("/orders/{order}/refunds")).await
    }

    /// (available, frozen, sold).
    pub async fn stock(&self, sku: &str) -> (i64, i64, i64) {
        let level = self.get(&format!("/stock/{sku}")).await;
        let part = |name: &str| level[name].as_i64().unwrap();
        (part("available"), part("frozen"), part("sold"))
    }

    pub async fn points(&self, user: i64) -> i64 {
        self.get(&format!("/points/{user}")).await["balance"].as_i64().unwrap()
    }

    /// Templates of what the users were told about each order, sorted.
    pub async fn told(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in self.rows("SELECT CAST(order_id AS CHAR), template FROM notification ORDER BY template").await {
            all.entry(row[0].clone()).or_default().push(row[1].clone());
        }
        all
    }

    /// Rows of texts.
    pub async fn rows(&self, text: &'static str) -> Vec<Vec<String>> {
        let mut conn = self.db.read().await.unwrap();
        let rows = sql::fetch(&mut conn, text, vals![]).await.unwrap();
        let columns = |row: &sqlx::any::AnyRow| {
            (0..sqlx::Row::len(row)).map(|column| row.maybe_text(column).unwrap().unwrap_or_default()).collect()
        };
        rows.iter().map(columns).collect()
    }

    pub async fn count(&self, text: &'static str) -> i64 {
        let mut conn = self.db.read().await.unwrap();
        sql::fetch_one(&mut conn, text, vals![]).await.unwrap().unwrap().int(0).unwrap()
    }

    /// Parked messages that wait.
    pub async fn parked(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM message_retry_log WHERE status = 0").await
    }

    pub async fn dead_letters(&self) -> i64 {
        self.count("SELECT COUNT(*) FROM message_record WHERE topic LIKE '\\%DLQ\\%%' ESCAPE '\\'").await
    }

    /// Violations that an audit finds when nothing is given any time.
    pub async fn violations(&self) -> Vec<String> {
        let report = audit::run(&RoleDbs::one(&self.db), &STRICT).await.unwrap();
        report.violations.iter().map(|one| format!("{} {}: {}", one.check, one.key, one.evidence)).collect()
    }

    /// At rest: the audit is clean, nothing waits, nothing was given up.
    pub async fn audit(&self) {
        assert_eq!(self.violations().await, Vec::<String>::new());
        assert_eq!(self.parked().await, 0, "something is parked");
        let dead = self.rows("SELECT event_id, CAST(properties AS CHAR) FROM message_record WHERE topic LIKE '%DLQ%'");
        assert_eq!(dead.await, Vec::<Vec<String>>::new(), "dead letters");
    }
}
