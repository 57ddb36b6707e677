//! SQLite has rolled back by itself, so that the one connection that writes is inside no transaction any more.

use ruyi::db::sql;
use serde_json::Value;

use crate::support::recovery::{Callers, Moment, Readiness, are_all, none_lost_or_doubled};
use crate::support::serving::Serving;

/// What leaves no transaction behind that could be committed, or rolled back.
const BREAKS: [&[&str]; 3] = [
    &["DELETE FROM coupon", "ROLLBACK"],
    &["INSERT OR ROLLBACK INTO node_lease (node, owner, lease_until) SELECT node, 'x', 1 FROM node_lease"],
    &["ROLLBACK", "INSERT INTO node_lease (node, owner) VALUES (1000, 'x')"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_transaction_of_sqlite_holds_up_nobody() {
    let serving = Serving::start(&["cache.ttl=0s"]).await;
    serving.fill().await;
    let (readiness, callers) = (Readiness::watch(&serving), Callers::start(3, &[&serving]));
    callers.until_accepted(3).await;

    let began = Moment::now();
    for statements in BREAKS.repeat(2) {
        let broken = serving.db().write("test", move |tx| {
            Box::pin(async move {
                for text in statements {
                    sql::execute(tx, *text, vec![]).await?;
                }
                Ok(())
            })
        });
        assert!(broken.await.is_err(), "{statements:?}");
        callers.until_accepted(1).await;
    }

    let (ended, accepted) = (Moment::now(), callers.orders());
    ended.as_before("it is ready", async || readiness.is_ready_since(ended)).await;
    let have_pieces = async || are_all(&serving, &accepted, "status", "RESERVED").await;
    ended.as_before("all orders have their pieces", have_pieces).await;

    assert_eq!(callers.refused(), 0, "the next transaction has a connection that works");
    let accepted = callers.stop().await;
    let nothing_was_written =
        |checks: &Value| checks["database"].as_str().unwrap().contains(": nothing is written since");
    readiness.stop().await.named_alone(began, ended, nothing_was_written);
    none_lost_or_doubled(&serving, &accepted).await;
    serving.stop().await;
}
