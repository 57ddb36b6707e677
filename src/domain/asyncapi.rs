//! `docs/asyncapi.json`: the catalogue as AsyncAPI 3.0 (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>),
//! from ruyi's side: it sends what its roles emit, and receives what its groups take.

use serde_json::{Map, Value, json};

use super::event::{Group, Kind, Producer, SCHEMA_VERSION};
use super::schema;

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut channels: Map<String, Value> =
        Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), channel(kind))).collect();
    channels.extend(Group::ALL.into_iter().map(|group| (format!("DLQ.{}", group.name()), dead_letters(group))));
    let messages: Map<String, Value> =
        Kind::ALL.into_iter().map(|kind| (kind.name().to_owned(), message(kind))).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "ruyi",
            "version": SCHEMA_VERSION,
            "description": "Events of an order, from its acceptance to its end, on RocketMQ. Delivered at least once, \
                            in order per key; receivers drop duplicates by eventId. docs/events.md has the whole contract.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations(),
        "components": { "messages": messages, "schemas": { "properties": properties(), "dlqProperties": dlq_properties() } },
    })
}

fn channel(kind: Kind) -> Value {
    let name = kind.name();
    json!({
        "address": name,
        "title": name,
        "summary": kind.summary(),
        "description": "The topic; [mq.topics] may name another one.",
        "messages": { name: { "$ref": format!("#/components/messages/{name}") } },
    })
}

/// What a group gives up, as it came, with the reason.
fn dead_letters(group: Group) -> Value {
    let messages: Map<String, Value> = group
        .events()
        .map(|kind| (kind.name().to_owned(), json!({ "$ref": format!("#/components/messages/{}", kind.name()) })))
        .collect();
    json!({
        "address": format!("%DLQ%{}", group.name()),
        "title": format!("Dead letters of {}", group.name()),
        "description": "Messages that the group gave up, with the properties of #/components/schemas/dlqProperties besides.",
        "messages": messages,
    })
}

fn operations() -> Map<String, Value> {
    let mut all = Map::new();
    for kind in Kind::ALL {
        let name = kind.name();
        let of = |action: &str, summary: String, more: Value| {
            let mut operation = json!({
                "action": action,
                "channel": { "$ref": format!("#/channels/{name}") },
                "summary": summary,
                "messages": [{ "$ref": format!("#/channels/{name}/messages/{name}") }],
            });
            if let (Some(operation), Value::Object(more)) = (operation.as_object_mut(), more) {
                operation.extend(more);
            }
            operation
        };
        if let Producer::Role(role) = kind.producer() {
            let summary = format!("The {} role sends {name}.", role.name());
            all.insert(format!("{}.sends.{name}", role.name()), of("send", summary, json!({ "x-role": role.name() })));
        }
        if kind.producer() == Producer::Broadcast {
            all.insert(
                format!("any.sends.{name}"),
                of("send", format!("Processes that write send {name}."), json!({})),
            );
            all.insert(format!("any.takes.{name}"), of("receive", format!("Every process takes {name}."), json!({})));
        }
        for group in kind.groups() {
            let summary = format!("{} ({} role) takes {name}.", group.name(), group.role().name());
            let more = json!({ "x-role": group.role().name(), "x-consumer-group": group.name() });
            all.insert(format!("{}.takes.{name}", group.name()), of("receive", summary, more));
        }
    }
    all
}

fn message(kind: Kind) -> Value {
    let keys = match kind {
        Kind::InventorySync => "the SKU",
        Kind::CacheInvalidate => "the order id or the SKU",
        _ => "the order id",
    };
    json!({
        "name": kind.name(),
        "title": kind.name(),
        "summary": kind.summary(),
        "contentType": "application/json",
        "headers": { "$ref": "#/components/schemas/properties" },
        "payload": schema::of(kind),
        "x-rocketmq": { "tags": kind.name(), "keys": keys },
    })
}

/// User properties of a message.
fn properties() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "User properties of the RocketMQ message. ruyi always writes the first four; who sends to it may \
                        leave out all.",
        "properties": {
            "eventId": text("As in the body."),
            "eventType": text("The event's name."),
            "schemaVersion": text("Version of the body."),
            "source": text("The program that wrote it."),
            "traceparent": text("W3C trace context of what caused it."),
        },
    })
}

fn dlq_properties() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "What a dead letter has besides its own properties.",
        "properties": {
            "dlqReason": text("Why it was given up."),
            "dlqOriginTopic": text("Where it came from."),
            "dlqFirstFailure": text("When it failed first, epoch ms."),
            "dlqAttempts": text("How often it was tried."),
            "dlqBodyAt": text("Of a large message, where the broker has it: BROKER:QUEUE:OFFSET of TOPIC."),
            "dlqBodyLeft": text("The letter has no body: the SHA-256 of the one that its message has at dlqBodyAt."),
            "dlqBodyCompressed": text("The body is compressed and could not be decompressed: why."),
        },
    })
}
