//! Parts of a process that stand still are told: to the log when they do and when they go on, and as a metric.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::databases::Database;
use crate::http::ReadyCheck;
use crate::telemetry::Metrics;
use crate::watchdog::{PATIENCE, Standing, Watchdog};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// The parts that work on these databases.
pub(super) fn watchdogs(databases: &[Database]) -> Vec<Watchdog> {
    databases.iter().map(|database| database.db.watchdog().clone()).collect()
}

/// Ready when every part that has work finishes some of it.
pub(super) fn parts_go_forward(watchdogs: Vec<Watchdog>) -> ReadyCheck {
    none_stands(watchdogs, |_| true)
}

/// Alive unless something was begun that does not end.
pub(super) fn what_is_begun_ends(watchdogs: Vec<Watchdog>) -> ReadyCheck {
    none_stands(watchdogs, Standing::needs_a_restart)
}

/// Well where no part stands still in such a way; otherwise which ones do.
fn none_stands(watchdogs: Vec<Watchdog>, is_wrong: fn(&Standing) -> bool) -> ReadyCheck {
    ReadyCheck::new("parts", move || {
        let told: Vec<String> = standing(&watchdogs).filter(is_wrong).map(|found| found.to_string()).collect();
        std::future::ready(if told.is_empty() { Ok(()) } else { Err(told.join("; ")) })
    })
}

/// Tells until `token` is cancelled.
pub(super) async fn tell(watchdogs: Vec<Watchdog>, metrics: Arc<Metrics>, token: CancellationToken) {
    let mut known: BTreeMap<String, Standing> = BTreeMap::new();
    while token.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        let now: BTreeMap<String, Standing> = standing(&watchdogs).map(|found| (found.part.clone(), found)).collect();
        for (part, found) in now.iter().filter(|(part, _)| !known.contains_key(*part)) {
            tracing::error!(part, seconds = found.since.as_secs(), "{found}");
        }
        for (part, found) in known.iter().filter(|(part, _)| !now.contains_key(*part)) {
            tracing::info!(part, seconds = found.since.as_secs(), "it goes forward again");
        }
        metrics.standing(now.keys().map(String::as_str));
        known = now;
    }
}

fn standing(watchdogs: &[Watchdog]) -> impl Iterator<Item = Standing> {
    watchdogs.iter().flat_map(|watchdog| watchdog.standing(PATIENCE))
}
