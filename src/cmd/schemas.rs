//! What programs may rely on in the output of the commands: a JSON Schema for one item of each (`docs/schemas`).

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::audit::repair;
use super::db::prune;
use super::mq::{dlq, messages, offsets, outbox, topics, tx};
use super::payment::{reconcile, settle};
use super::{check, delivery, doctor, import, trace};
use crate::roles::search::FoundOrder;

/// Of each command ("mq topics list"), the schema of one item: a line of `--output jsonl`, an element of `items` of
/// `--output json`.
#[must_use]
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        item::<check::Row>("check"),
        item::<doctor::Finding>("doctor"),
        item::<topics::Listed>("mq topics list"),
        item::<topics::Queue>("mq topics show"),
        item::<topics::Step>("mq topics create"),
        item::<topics::Step>("mq topics update"),
        item::<topics::Step>("mq topics delete"),
        item::<topics::Difference>("mq topics plan"),
        item::<topics::Difference>("mq topics apply"),
        item::<offsets::Listed>("mq offsets list"),
        item::<offsets::QueueLag>("mq offsets show"),
        item::<offsets::TopicLag>("mq offsets lag"),
        item::<offsets::Move>("mq offsets reset"),
        item::<offsets::Move>("mq offsets restore"),
        item::<offsets::Move>("mq offsets skip"),
        item::<offsets::Move>("mq offsets clone"),
        item::<dlq::show::Listed>("mq dlq list"),
        item::<dlq::show::Row>("mq dlq browse"),
        item::<dlq::show::Whole>("mq dlq show"),
        item::<dlq::show::Count>("mq dlq group"),
        item::<dlq::replay::Summary>("mq dlq replay"),
        item::<dlq::edit::Edited>("mq dlq edit"),
        item::<dlq::transfer::Exported>("mq dlq export"),
        item::<dlq::transfer::Imported>("mq dlq import"),
        item::<dlq::discard::Summary>("mq dlq discard"),
        item::<messages::Whole<'_>>("mq messages get"),
        item::<messages::Row<'_>>("mq messages query"),
        item::<messages::Row<'_>>("mq messages tail"),
        item::<messages::Sent<'_>>("mq messages send"),
        item::<tx::Row<'_>>("mq tx stuck"),
        item::<tx::Done<'_>>("mq tx resume"),
        item::<FoundOrder>("order search"),
        item::<import::Summary>("product import"),
        item::<import::Summary>("stock import"),
        item::<outbox::Row<'_>>("mq outbox list"),
        item::<outbox::Redriven>("mq outbox redrive"),
        item::<trace::Row>("trace"),
        item::<delivery::Row>("delivery list"),
        item::<delivery::Whole>("delivery show"),
        item::<delivery::Changed>("delivery resend"),
        item::<delivery::Changed>("delivery cancel"),
        item::<prune::Row>("db prune"),
        item::<reconcile::Row>("payment reconcile"),
        item::<settle::Ended>("payment settle"),
        item::<repair::Row>("audit --repair"),
    ]
}

fn item<R: ToSchema>(command: &'static str) -> (&'static str, Value) {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    R::schemas(&mut parts);
    let parts: Map<String, Value> = parts.into_iter().map(|(name, schema)| (name, value(&schema))).collect();
    let mut schema = value(&R::schema());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("An item of `ruyi {command}`"));
    if !parts.is_empty() {
        // Where utoipa's references lead.
        schema["components"] = json!({ "schemas": parts });
    }
    (command, schema)
}

fn value(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).unwrap_or_default()
}
