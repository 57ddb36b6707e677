//! A transaction that writes: its connection, its time, and the events that leave with it.

use std::fmt::Display;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use sqlx::AnyConnection;

use super::connection::Conn;
use super::delivery::{self, Delivery};
use super::outbox::{self, OutboxRow};
use super::pace::Pace;
use super::{DbError, Dialect, Ids};
use crate::alert::Alert;
use crate::domain::event::Kind;
use crate::domain::event::{CacheInvalidate, CacheKind};

/// What happens once the transaction is committed.
#[derive(Default)]
pub(super) struct After {
    pub outbox: Vec<OutboxRow>,
    pub deliveries: bool,
    pub retries: bool,
    pub alerts: Vec<(i64, String, Alert)>,
    pub changed: Vec<CacheInvalidate>,
}

/// What the column of a call's reference holds.
const REFERENCE_MAX: usize = 128;

/// A transaction that writes. Only [`super::Db::write`] makes one.
pub struct Tx {
    conn: Conn,
    dialect: Dialect,
    now_ms: i64,
    ids: Arc<Ids>,
    without_node: AtomicBool,
    max_message_bytes: usize,
    without: &'static [Kind],
    after: After,
}

/// An event about to be written to the outbox.
#[derive(Clone, Debug)]
pub struct Draft<'a, B> {
    /// What happened.
    pub kind: Kind,
    /// Business key: chooses the queue, and names the aggregate in the event id.
    pub key: String,
    /// Told apart from other events of this kind and key; usually empty.
    pub discriminator: &'a str,
    /// Fields of the body.
    pub body: &'a B,
    /// W3C trace context of what caused it.
    pub trace: Option<&'a str>,
    /// Not before this time, epoch ms; 0: at once.
    pub deliver_at: i64,
    /// Who keeps it until then.
    pub held_by: Holder,
}

/// Who keeps an event back until it is to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holder {
    /// The outbox: any time, and it can be taken back ([`outbox::cancel_by_key`]).
    #[default]
    Outbox,
    /// The broker's timer: it leaves at once, and cannot be taken back. Not further away than the brokers allow
    /// (`mq.producer.max_delay`).
    Broker,
}

impl<'a, B> Draft<'a, B> {
    /// An event that happens once to this aggregate, to be sent at once.
    #[must_use]
    pub fn new(kind: Kind, key: impl Display, body: &'a B, trace: Option<&'a str>) -> Self {
        Self { kind, key: key.to_string(), discriminator: "", body, trace, deliver_at: 0, held_by: Holder::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, B> {
    event_id: &'a str,
    timestamp: i64,
    #[serde(flatten)]
    body: &'a B,
}

impl<B: Serialize> Draft<'_, B> {
    /// The event's id, and its body as of `now_ms`.
    ///
    /// # Errors
    /// [`DbError::Json`] when the body cannot be written.
    pub fn encode(&self, now_ms: i64) -> Result<(String, Vec<u8>), DbError> {
        let mut event_id = self.kind.event_id(&self.key);
        if !self.discriminator.is_empty() {
            event_id = format!("{event_id}:{}", self.discriminator);
        }
        let body = serde_json::to_vec(&Envelope { event_id: &event_id, timestamp: now_ms, body: self.body })?;
        Ok((event_id, body))
    }
}

impl Tx {
    pub(super) fn new(conn: Conn, dialect: Dialect, now_ms: i64, ids: Arc<Ids>, max_message_bytes: usize) -> Self {
        let (without_node, after) = (AtomicBool::new(false), After::default());
        Self { conn, dialect, now_ms, ids, without_node, max_message_bytes, without: &[], after }
    }

    /// Events of these kinds are not written.
    pub(super) fn leave_out(&mut self, kinds: &'static [Kind]) {
        self.without = kinds;
    }

    /// The dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// When the transaction began, epoch ms: the one time of all that it writes.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// A new id. Without a node number it is none: the transaction is not committed then.
    #[must_use]
    pub fn next_id(&self) -> i64 {
        self.ids.next_leased().unwrap_or_else(|unusable| {
            self.without_node.store(true, Ordering::Relaxed);
            unusable
        })
    }

    /// It was given an id that is not this process's to give.
    pub(super) fn without_node(&self) -> bool {
        self.without_node.load(Ordering::Relaxed)
    }

    /// Writes an event to the outbox with this transaction; it is published after the commit. One that the
    /// configuration turns off is left out.
    ///
    /// # Errors
    /// [`DbError::Json`] when the body cannot be written; [`DbError::TooLarge`] or [`DbError::Unsendable`] when no
    /// broker would take the message: then there is no row.
    pub fn emit<B: Serialize>(&mut self, draft: &Draft<'_, B>) -> Result<(), DbError> {
        if self.without.contains(&draft.kind) {
            return Ok(());
        }
        let (event_id, body) = draft.encode(self.now_ms)?;
        let mut properties = outbox::properties(&event_id, draft.kind.name(), draft.trace);
        let mut deliver_at_ms = draft.deliver_at.max(self.now_ms);
        if draft.held_by == Holder::Broker && deliver_at_ms > self.now_ms {
            properties.push((outbox::TIMER_PROPERTY.to_owned(), deliver_at_ms.to_string()));
            deliver_at_ms = self.now_ms;
        }
        let row = OutboxRow {
            id: self.next_id(),
            topic: draft.kind.name().to_owned(),
            tag: draft.kind.name().to_owned(),
            key: draft.key.clone(),
            body: body.into(),
            properties,
            deliver_at_ms,
            event_id,
            attempts: 0,
        };
        self.check_sendable(&row)?;
        self.emit_raw(row);
        Ok(())
    }

    /// What would fail at every attempt to send it must not become a row.
    fn check_sendable(&self, row: &OutboxRow) -> Result<(), DbError> {
        let bytes = outbox::encoded_bytes(&row.tag, &row.key, &row.properties, row.body.len());
        if bytes > self.max_message_bytes {
            let event_id = row.event_id.clone();
            return Err(DbError::TooLarge { event_id, bytes, max_bytes: self.max_message_bytes });
        }
        let properties = outbox::properties_bytes(&row.tag, &row.key, &row.properties);
        if properties > outbox::MAX_PROPERTIES_BYTES {
            let what = format!("{properties} bytes of properties, {} fit", outbox::MAX_PROPERTIES_BYTES);
            return Err(DbError::Unsendable { event_id: row.event_id.clone(), what });
        }
        Ok(())
    }

    /// Writes a message to the outbox as it is (dead letters).
    pub fn emit_raw(&mut self, row: OutboxRow) {
        self.after.outbox.push(row);
    }

    /// Tells people of something, once this is committed: in the log, and by the webhook if there is one. `reference`
    /// names the occasion: a second alert with the same one is not sent.
    pub fn alert(&mut self, reference: String, alert: Alert) {
        let id = self.next_id();
        self.after.alerts.push((id, reference, alert));
    }

    /// After the commit, the delivery engine looks for work.
    pub fn wake_deliveries(&mut self) {
        self.after.deliveries = true;
    }

    /// After the commit, the retry lanes look for work.
    pub fn wake_retries(&mut self) {
        self.after.retries = true;
    }

    pub(super) async fn write_alerts(&mut self, webhook: &str) -> Result<(), DbError> {
        let mut calls = Vec::with_capacity(self.after.alerts.len());
        for (id, reference, alert) in &self.after.alerts {
            // It is sent as a header; ids of other systems may hold anything.
            let plain = reference.len() <= REFERENCE_MAX && reference.bytes().all(|byte| byte.is_ascii_graphic());
            calls.push(Delivery {
                id: *id,
                kind: delivery::Kind::Alert,
                reference: if plain { reference.clone() } else { format!("alert:{id}") },
                order_id: alert.order_id(),
                url: webhook.to_owned(),
                body: serde_json::to_string(alert)?,
                attempts: 0,
                next_at: self.now_ms,
                trace: None,
            });
        }
        if !calls.is_empty() {
            // A second alert of one occasion is not sent.
            delivery::insert(self, &calls).await?.or_known();
        }
        Ok(())
    }

    /// After the commit, what was read of this before `version` is forgotten.
    pub(super) fn changed(&mut self, kind: CacheKind, key: String, version: i64) {
        self.after.changed.push(CacheInvalidate { kind, key, version });
    }

    pub(super) async fn write_outbox(&mut self) -> Result<(), DbError> {
        let rows = std::mem::take(&mut self.after.outbox);
        outbox::insert(&mut self.conn, &rows, self.now_ms).await?;
        // What waits for its time is the sweep's; the rest leaves from memory.
        let now_ms = self.now_ms;
        let due = rows.into_iter().filter(|row| row.deliver_at_ms <= now_ms);
        self.after.outbox = due.map(|row| OutboxRow { deliver_at_ms: now_ms, ..row }).collect();
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<After, DbError> {
        self.conn.end("COMMIT", Pace::current().answer(self.dialect)).await?;
        Ok(self.after)
    }

    /// Takes everything back. A connection that is spoilt is closed instead, and the server does it.
    pub(super) async fn roll_back(self, spoilt: bool) {
        if spoilt {
            return;
        }
        if let Err(error) = self.conn.end("ROLLBACK", Pace::current().answer(self.dialect)).await {
            tracing::debug!(%error, "a transaction was not rolled back: its connection is closed");
        }
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.conn
    }
}
