//! A server of the tables gives its place to another: the old one can only be read from then on, and the address moves.

use std::time::Duration;

use ruyi::db::migrate;
use serde_json::Value;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use crate::support::proxy::Proxy;
use crate::support::recovery::{Callers, Moment, Readiness, are_all, none_lost_or_doubled};
use crate::support::servers::mariadb::MariaDb;
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::eventually;

/// `/readyz` says within so long that nothing is written.
const TOLD: Duration = Duration::from_secs(5);

/// A server that writes down what it does, for another to do the same.
fn logging(id: u32) -> Option<MariaDb> {
    MariaDb::start_with(&format!("--log-bin=log --server-id={id}"))
}

async fn execute(conn: &mut AnyConnection, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(conn).await.unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// `to` does whatever `from` has done and will do.
async fn follow(from: &MariaDb, to: &mut AnyConnection) {
    let port = from.port();
    let master = format!("MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', MASTER_USE_GTID=slave_pos");
    execute(to, &format!("CHANGE MASTER TO {master}, MASTER_CONNECT_RETRY=1")).await;
    execute(to, "START SLAVE").await;
}

/// Waits until `to` has done all that `from` has, and follows it no longer.
async fn catch_up(from: &mut AnyConnection, to: &mut AnyConnection) {
    // The last thing in the log. Who administers the server may write still.
    execute(from, "CREATE DATABASE caught_up").await;
    let text = "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'caught_up'";
    let is_there = async || {
        let row = sqlx::query(text).fetch_one(&mut *to).await.unwrap();
        row.get::<i64, _>(0) == 1
    };
    eventually("the new server has all that the old one had", is_there).await;
    execute(to, "STOP SLAVE").await;
}

fn names_the_database(checks: &Value) -> bool {
    checks["database"].as_str().unwrap().starts_with("order, payment, stock, notify: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_another_server_loses_no_order() {
    let (Some(old), Some(new)) = (logging(1), logging(2)) else { return };
    let url = old.create("ruyi").await;
    new.ready().await;
    let (mut of_old, mut of_new) = (old.connect("mysql").await, new.connect("mysql").await);
    follow(&old, &mut of_new).await;
    migrate::run(&url).await.unwrap();
    // The administrator may write to a server that is read-only.
    for text in ["CREATE USER shop@'127.0.0.1'", "GRANT ALL ON ruyi.* TO shop@'127.0.0.1'"] {
        execute(&mut of_old, text).await;
    }
    let proxy = Proxy::to(old.port()).await;
    let database = format!("database.url={}", proxy.url(&url).replace("root@", "shop@"));
    let serving = Serving::start(&[&database, "cache.ttl=0s"]).await;
    serving.fill().await;
    let before = serving.place(&order_of("A1", 1)).await;
    serving.until(&format!("/orders/{before}"), "status", "RESERVED").await;
    let (readiness, callers) = (Readiness::watch(&serving), Callers::start(3, &[&serving]));
    callers.until_accepted(3).await;
    assert_eq!(callers.refused(), 0);

    let began = Moment::now();
    execute(&mut of_old, "SET GLOBAL read_only = 1").await;
    began.within(TOLD, "/readyz tells", async || readiness.has_told_since(began, names_the_database)).await;
    callers.until_refused(3).await;
    assert_eq!(serving.get(&format!("/orders/{before}")).await["status"], "RESERVED", "it can still be read");
    catch_up(&mut of_old, &mut of_new).await;

    proxy.lead_to(new.port());
    let (ended, before) = (Moment::now(), callers.orders().len());
    ended.as_before("orders are accepted", async || callers.orders().len() > before).await;
    ended.as_before("it is ready", async || readiness.is_ready_since(ended)).await;
    let accepted = callers.orders();
    let have_pieces = async || are_all(&serving, &accepted, "status", "RESERVED").await;
    ended.as_before("all orders have their pieces", have_pieces).await;

    let accepted = callers.stop().await;
    readiness.stop().await.named_alone(began, ended, names_the_database);
    none_lost_or_doubled(&serving, &accepted).await;
    let stored = "SELECT COUNT(*) FROM ruyi.orders WHERE idempotency_key IS NOT NULL";
    let row = sqlx::query(stored).fetch_one(&mut of_new).await.unwrap();
    assert_eq!(usize::try_from(row.get::<i64, _>(0)).unwrap(), accepted.len(), "the new server has them");
    let blamed = serving.number("SELECT COUNT(*) FROM message_retry_log WHERE blocks = 1").await;
    assert_eq!(blamed, 0, "no message has failed");
    serving.stop().await;
}
