//! What is past its own time, and what was given up.

use super::{About, Auditor, Check, Suspect, Warning};
use crate::clock::rfc3339;
use crate::db::audit::{self as facts, Stuck, StuckRow};
use crate::db::{Db, DbError};

/// In every database: all roles have all tables.
pub(super) async fn check(auditor: &mut Auditor<'_>) -> Result<(), DbError> {
    let dbs = auditor.dbs;
    for (place, db) in dbs.distinct().into_iter().enumerate() {
        for what in Stuck::ALL {
            stuck(auditor, (place, db), what).await?;
        }
    }
    for (what, text) in facts::GIVEN_UP {
        let mut count = 0;
        for db in dbs.distinct() {
            let mut conn = db.read().await?;
            count += facts::count(&mut conn, text).await?;
        }
        if count > 0 {
            auditor.report.warnings.push(Warning { what, count, evidence: None });
        }
    }
    Ok(())
}

async fn stuck(auditor: &mut Auditor<'_>, (place, db): (usize, &Db), what: Stuck) -> Result<(), DbError> {
    let limit = auditor.options.page.max(1);
    let mut after = 0;
    loop {
        let moment = auditor.moment();
        let mut conn = db.read().await?;
        let found = facts::stuck(&mut conn, what, moment.overdue_before, after, limit).await?;
        let Some(last) = found.last() else { return Ok(()) };
        after = last.id;
        // A second look: one that is being worked on moves its time forward.
        let ids: Vec<i64> = found.iter().map(|row| row.id).collect();
        let still = facts::still_stuck(&mut conn, what, moment.overdue_before, &ids).await?;
        drop(conn);
        auditor.checked(Check::NothingStuck, found.len());
        auditor.found(Check::NothingStuck, still.into_iter().map(|row| suspect(what, place, row)).collect());
    }
}

fn suspect(what: Stuck, place: usize, row: StuckRow) -> Suspect<i64> {
    let about = About::Row(what, place, row.id);
    Suspect { id: row.id, key: row.name, evidence: format!("{}: since {}", what.name(), rfc3339(row.since)), about }
}
