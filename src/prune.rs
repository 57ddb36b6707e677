//! Deleting what nobody needs any more, a small batch at a time, beside a working system.
//!
//! What a row is needed for decides, not only its age. An outbox row stays until each of its groups has its event, and
//! an inbox row stays as long as the event's outbox row: whatever can still be sent again is known as a duplicate.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::AnyConnection;

use crate::audit::RoleDbs;
use crate::db::inbox::Outcome;
use crate::db::prune::{self as rows, LoggedRow};
use crate::db::{Db, DbError, Tx, audit as facts};
use crate::domain::event::{Group, Kind};
use crate::domain::id::first_id_of;

/// What can be pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Sent rows of the outbox.
    Outbox,
    /// The inbox.
    Inbox,
    /// Parked messages that are through or were given up.
    Retry,
    /// Attempts of outgoing calls that were answered well.
    Attempts,
    /// Decided attempts to publish with a transaction.
    Transactions,
    /// Outgoing calls that told somebody something, and are settled.
    Calls,
}

impl Table {
    /// Every table. The outbox comes first: while it knows an event, the inbox keeps it.
    pub const ALL: [Self; 6] =
        [Self::Outbox, Self::Inbox, Self::Retry, Self::Attempts, Self::Transactions, Self::Calls];

    /// In the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outbox => "message_record",
            Self::Inbox => "message_process_log",
            Self::Retry => "message_retry_log",
            Self::Attempts => "delivery_attempt",
            Self::Transactions => "message_tx_state",
            Self::Calls => "delivery",
        }
    }

    /// From its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// One table, and how old its rows have to be.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Which.
    pub table: Table,
    /// Rows that were done with longer ago than this.
    pub older_than_ms: i64,
}

/// How to go about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// What, in the order of [`Table::ALL`].
    pub targets: Vec<Target>,
    /// For so long the inbox has to know what it handled.
    pub inbox_ms: i64,
    /// Rows looked at, and deleted, at once.
    pub batch: i64,
    /// Wait after each batch that deleted something.
    pub pause: Duration,
    /// Only count.
    pub dry_run: bool,
}

/// What became of one table of one database.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Which database, as a place in [`RoleDbs::distinct`].
    pub database: usize,
    /// Which table.
    pub table: Table,
    /// Rows done with before this are old, epoch ms.
    pub before_ms: i64,
    /// Rows looked at.
    pub scanned: u64,
    /// Rows deleted, or to be deleted.
    pub pruned: u64,
    /// Old rows that are still needed.
    pub kept: u64,
    /// How long it took.
    pub took: Duration,
    /// Why it ended early. What was deleted until then stays deleted, and the next run goes on.
    pub error: Option<String>,
}

/// Prunes everything; `progress` is told of each batch, with the summary so far. A database that fails ends its own
/// part only.
pub async fn run(dbs: &RoleDbs, options: &Options, mut progress: impl FnMut(&Summary)) -> Vec<Summary> {
    let now_ms = dbs.order.clock().now_ms();
    let mut done = Vec::new();
    for target in &options.targets {
        for (database, db) in dbs.distinct().into_iter().enumerate() {
            let before_ms = now_ms.saturating_sub(target.older_than_ms);
            let table = target.table;
            let summary = Summary {
                database,
                table,
                before_ms,
                scanned: 0,
                pruned: 0,
                kept: 0,
                took: Duration::ZERO,
                error: None,
            };
            let started = Instant::now();
            let mut pruner = Pruner { dbs, db, options, now_ms, summary, progress: &mut progress };
            if let Err(error) = pruner.table().await {
                pruner.summary.error = Some(error.to_string());
            }
            pruner.summary.took = started.elapsed();
            done.push(pruner.summary);
        }
    }
    done
}

struct Pruner<'a, P: FnMut(&Summary)> {
    dbs: &'a RoleDbs,
    db: &'a Db,
    options: &'a Options,
    now_ms: i64,
    summary: Summary,
    progress: &'a mut P,
}

impl<P: FnMut(&Summary)> Pruner<'_, P> {
    async fn table(&mut self) -> Result<(), DbError> {
        match self.summary.table {
            Table::Outbox => self.outbox().await,
            Table::Inbox => self.inbox().await,
            Table::Retry => self.retry().await,
            Table::Attempts => self.attempts().await,
            Table::Transactions => self.transactions().await,
            Table::Calls => self.calls().await,
        }
    }

    /// Rows with smaller ids were written before what is old began.
    fn first_young_id(&self) -> i64 {
        first_id_of(self.summary.before_ms, 0)
    }

    /// Deletes a batch in a transaction of its own; a dry run only counts it.
    async fn delete<K, F>(&self, keys: Vec<K>, delete: F) -> Result<u64, DbError>
    where
        K: Clone + Send + Sync + 'static,
        F: for<'t> Fn(&'t mut Tx, Vec<K>) -> BoxFuture<'t, Result<u64, DbError>> + Send + Sync + 'static,
    {
        if self.options.dry_run || keys.is_empty() {
            return Ok(keys.len() as u64);
        }
        self.db.write("prune", move |tx| delete(tx, keys.clone())).await
    }

    /// A batch is over: `old` of `scanned` rows are old, `pruned` of them went.
    async fn batch(&mut self, scanned: usize, old: usize, pruned: u64) {
        self.summary.scanned += scanned as u64;
        self.summary.pruned += pruned;
        self.summary.kept += (old as u64).saturating_sub(pruned);
        (self.progress)(&self.summary);
        if pruned > 0 && !self.options.dry_run {
            tokio::time::sleep(self.options.pause).await;
        }
    }

    async fn outbox(&mut self) -> Result<(), DbError> {
        let (before_ms, bound) = (self.summary.before_ms, self.first_young_id());
        let mut after = 0;
        loop {
            let page = rows::outbox_page(&mut *self.db.read().await?, after, bound, self.options.batch).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            let scanned = page.len();
            let is_old = |row: &LoggedRow| row.sent_at.is_some_and(|sent_at| sent_at < before_ms);
            let old: Vec<LoggedRow> = page.into_iter().filter(is_old).collect();
            let needed = self.unhandled(&old).await?;
            let held = |row: &LoggedRow| row.held_until.is_some_and(|until| until >= before_ms);
            let ids: Vec<i64> =
                old.iter().filter(|row| !held(row) && !needed.contains(&row.id)).map(|row| row.id).collect();
            let pruned = self.delete(ids, move |tx, ids| rows::outbox_delete(tx, ids, before_ms).boxed()).await?;
            self.batch(scanned, old.len(), pruned).await;
        }
    }

    /// Rows whose event some group has not handled yet: they may be the last copy of it. What is older than the inbox
    /// remembers is not asked for.
    async fn unhandled(&self, old: &[LoggedRow]) -> Result<HashSet<i64>, DbError> {
        let known_since = self.now_ms.saturating_sub(self.options.inbox_ms);
        let mut needed = HashSet::new();
        for group in Group::ALL {
            let of_group = |row: &&LoggedRow| {
                row.sent_at.is_some_and(|at| at >= known_since)
                    && Kind::from_name(&row.topic).is_some_and(|kind| kind.groups().contains(&group))
            };
            let of_group: Vec<&LoggedRow> = old.iter().filter(of_group).collect();
            if of_group.is_empty() {
                continue;
            }
            let ids: Vec<String> = of_group.iter().map(|row| row.event_id.clone()).collect();
            let mut conn = self.dbs.of(group.role()).read().await?;
            let outcomes = facts::outcomes(&mut conn, group.name(), &ids).await?;
            let open = |row: &&&LoggedRow| {
                outcomes.get(&row.event_id).is_none_or(|outcome| *outcome == Outcome::Parked as i64)
            };
            needed.extend(of_group.iter().filter(open).map(|row| row.id));
        }
        Ok(needed)
    }

    async fn inbox(&mut self) -> Result<(), DbError> {
        let mut group = String::new();
        while let Some(next) = rows::next_group(&mut *self.db.read().await?, &group).await? {
            group = next;
            self.inbox_of(&group).await?;
        }
        Ok(())
    }

    async fn inbox_of(&mut self, group: &str) -> Result<(), DbError> {
        let before_ms = self.summary.before_ms;
        let mut after = String::new();
        loop {
            let page = rows::inbox_page(&mut *self.db.read().await?, group, &after, self.options.batch).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.message_id);
            let scanned = page.len();
            let old: Vec<_> = page.into_iter().filter(|row| row.consumed_at < before_ms).collect();
            let ids: Vec<String> = old.iter().filter(|row| !row.parked).map(|row| row.message_id.clone()).collect();
            let needed = self.logged(&ids).await?;
            let ids: Vec<String> = ids.into_iter().filter(|id| !needed.contains(id)).collect();
            let of = group.to_owned();
            let pruned =
                self.delete(ids, move |tx, ids| rows::inbox_delete(tx, of.clone(), ids, before_ms).boxed()).await?;
            self.batch(scanned, old.len(), pruned).await;
        }
    }

    /// Which of these events an outbox still has, in whichever database. A dry run takes those for gone that it would
    /// have deleted.
    async fn logged(&self, event_ids: &[String]) -> Result<HashSet<String>, DbError> {
        let outbox = self.options.targets.iter().find(|target| target.table == Table::Outbox);
        let gone_before = match outbox {
            Some(target) if self.options.dry_run => self.now_ms.saturating_sub(target.older_than_ms),
            _ => 0,
        };
        let mut found = HashSet::new();
        if event_ids.is_empty() {
            return Ok(found);
        }
        for db in self.dbs.distinct() {
            found.extend(rows::logged(&mut *db.read().await?, event_ids, gone_before).await?);
        }
        Ok(found)
    }

    /// Of a table whose rows have an end, or none yet: pages of them, as (id, end), and how those of some ids go.
    async fn ended<R, D>(&mut self, page: R, delete: D) -> Result<(), DbError>
    where
        R: for<'c> Fn(&'c mut AnyConnection, i64, i64, i64) -> BoxFuture<'c, Result<Vec<(i64, Option<i64>)>, DbError>>,
        D: for<'t> Fn(&'t mut Tx, Vec<i64>, i64) -> BoxFuture<'t, Result<u64, DbError>> + Copy + Send + Sync + 'static,
    {
        let (before_ms, bound) = (self.summary.before_ms, self.first_young_id());
        let mut after = 0;
        loop {
            let page = page(&mut *self.db.read().await?, after, bound, self.options.batch).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            let ids: Vec<i64> =
                page.iter().filter(|(_, ended)| ended.is_some_and(|at| at < before_ms)).map(|(id, _)| *id).collect();
            let (scanned, old) = (page.len(), ids.len());
            let pruned = self.delete(ids, move |tx, ids| delete(tx, ids, before_ms)).await?;
            self.batch(scanned, old, pruned).await;
        }
    }

    async fn retry(&mut self) -> Result<(), DbError> {
        self.ended(
            |conn, after, before, limit| rows::retry_page(conn, after, before, limit).boxed(),
            |tx, ids, before_ms| rows::retry_delete(tx, ids, before_ms).boxed(),
        )
        .await
    }

    async fn attempts(&mut self) -> Result<(), DbError> {
        let (before_ms, bound) = (self.summary.before_ms, self.first_young_id());
        let mut after = 0;
        loop {
            let mut conn = self.db.read().await?;
            let attempts = rows::attempts_page(&mut conn, after, bound, self.options.batch).await?;
            let Some(last) = attempts.last() else { return Ok(()) };
            after = *last;
            let scanned = attempts.len();
            let mut calls = attempts;
            calls.dedup();
            let finished = rows::finished_calls(&mut conn, &calls, before_ms).await?;
            drop(conn);
            calls.retain(|id| finished.contains(id));
            // A call's attempts go together, also those beyond this page.
            let pruned = if self.options.dry_run {
                rows::attempts_count(&mut *self.db.read().await?, &calls).await?
            } else {
                self.delete(calls, |tx, ids| rows::attempts_delete(tx, ids).boxed()).await?
            };
            self.batch(scanned, 0, pruned).await;
        }
    }

    async fn calls(&mut self) -> Result<(), DbError> {
        self.ended(
            |conn, after, before, limit| rows::calls_page(conn, after, before, limit).boxed(),
            |tx, ids, before_ms| rows::calls_delete(tx, ids, before_ms).boxed(),
        )
        .await
    }

    async fn transactions(&mut self) -> Result<(), DbError> {
        let before_ms = self.summary.before_ms;
        let mut after = String::new();
        loop {
            let page = rows::transactions_page(&mut *self.db.read().await?, &after, self.options.batch).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            let scanned = page.len();
            let ids: Vec<String> = page.into_iter().filter(|(_, at)| *at < before_ms).map(|(id, _)| id).collect();
            let old = ids.len();
            let pruned = self.delete(ids, move |tx, ids| rows::transactions_delete(tx, ids, before_ms).boxed()).await?;
            self.batch(scanned, old, pruned).await;
        }
    }
}
