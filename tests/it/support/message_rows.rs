//! Rows of messages for tests of what is claimed, lost and moved.

use ruyi::db::delivery::{Delivery, Kind};
use ruyi::db::outbox::OutboxRow;
use ruyi::db::retry::Parked;

use super::servers::START_MS;

/// The event `<id>:E` of the key "k", due at once.
pub fn outbox_row(id: i64) -> OutboxRow {
    OutboxRow {
        id,
        event_id: format!("{id}:E"),
        topic: "E".into(),
        tag: "E".into(),
        key: "k".into(),
        body: "{}".into(),
        properties: vec![],
        deliver_at_ms: 0,
        attempts: 0,
    }
}

/// The same event, of a key of its own, parked and due at the start.
pub fn parked(id: i64) -> Parked {
    Parked {
        id,
        message_id: format!("{id}:E"),
        topic: "E".into(),
        tag: "E".into(),
        key: id.to_string(),
        body: b"{}".to_vec(),
        properties: vec![],
        blocks: true,
        attempts: 0,
        next_at: Some(START_MS),
        first_failed_at: START_MS,
        last_error: String::new(),
    }
}

/// A call that is due.
pub fn call(id: i64) -> Delivery {
    Delivery {
        id,
        kind: Kind::Sms,
        reference: id.to_string(),
        order_id: 1,
        url: "http://127.0.0.1:1/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at: START_MS,
        trace: None,
    }
}
