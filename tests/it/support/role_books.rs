//! What is on record in the databases of the roles: changed by hand, and audited.

use std::time::Duration;

use ruyi::audit::{self, RoleDbs};
use ruyi::db::Db;
use ruyi::db::sql;
use ruyi::domain::event::Role;

pub const STRICT: audit::Options = audit::Options {
    settle_ms: 0,
    bound_ms: 0,
    parcel_bound_ms: 1_000_000_000,
    zone: jiff::tz::TimeZone::UTC,
    page: 7,
    evidence: 100,
    events_kept_ms: 1_000_000_000,
    data_sync: true,
};

/// The settings that give each role the database of its place.
pub fn by_role(urls: &[String]) -> Vec<String> {
    Role::ALL.iter().zip(urls).map(|(role, url)| format!("database.roles.{}={url}", role.name())).collect()
}

pub async fn execute(db: &Db, text: String) -> u64 {
    let done = db.write("test", move |tx| {
        let text = text.clone();
        Box::pin(async move { sql::execute(tx, text, vec![]).await })
    });
    done.await.unwrap()
}

/// (check, key) of each violation.
pub async fn found(dbs: &RoleDbs) -> Vec<(String, String)> {
    let report = audit::run(dbs, &STRICT).await.unwrap();
    assert!(report.violations.iter().all(|one| !one.evidence.is_empty()));
    report.violations.into_iter().map(|one| (one.check.to_owned(), one.key)).collect()
}

/// Looks until exactly these orders are named by the audit.
pub async fn until_only(dbs: &RoleDbs, wanted: &[&String]) {
    let started = std::time::Instant::now();
    loop {
        let seen = found(dbs).await;
        // A payment that is left as it is differs from what was counted of it, too.
        let others = seen.iter().filter(|(check, _)| wanted.is_empty() || check != "statistics");
        let others: Vec<_> = others.filter(|(_, key)| !wanted.contains(&key)).collect();
        if others.is_empty() && wanted.iter().all(|id| seen.iter().any(|(_, key)| key == *id)) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{others:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
