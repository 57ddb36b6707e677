//! Gauges that are read from the databases.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::db::{Db, DbError, outbox, retry};
use crate::mq::broker::{self, Broker};
use crate::mq::health::Reach;
use crate::telemetry::Metrics;

/// How often they are read.
const PAUSE: Duration = Duration::from_secs(10);

/// Reads them until `token` is cancelled: sums, and the oldest, over `dbs`.
pub(super) async fn run(dbs: Vec<Db>, broker: Broker, metrics: Arc<Metrics>, token: CancellationToken) {
    let mut changes = broker.changes();
    loop {
        let reach = broker.state().reach;
        metrics.broker(reach == Reach::Up, reach == Reach::Degraded);
        if let Err(error) = read(&dbs, &metrics).await {
            tracing::debug!(%error, "gauges not read");
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = broker::changed(&mut changes) => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// By how much the machine's clock is corrected, ms: the most of what these databases say.
pub(super) fn skew_ms(dbs: &[Db]) -> i64 {
    dbs.iter().map(|db| db.clock().correction_ms()).max_by_key(|skew_ms| skew_ms.abs()).unwrap_or(0)
}

async fn read(dbs: &[Db], metrics: &Metrics) -> Result<(), DbError> {
    metrics.clock_skew(skew_ms(dbs));
    let (mut pending, mut oldest_ms, mut waiting) = (0, 0, 0);
    for db in dbs {
        let now_ms = db.clock().now_ms();
        let mut conn = db.read().await?;
        let (rows, oldest) = outbox::pending(&mut conn, now_ms).await?;
        pending += rows;
        oldest_ms = oldest.map_or(0, |at| now_ms - at).max(oldest_ms);
        waiting += retry::waiting(&mut conn).await?;
    }
    metrics.outbox(pending, oldest_ms);
    metrics.retry_pending(waiting);
    Ok(())
}
