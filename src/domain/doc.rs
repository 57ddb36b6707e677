//! `docs/events.md`, written from the catalogue.

use std::fmt::Write;

use super::event::{Kind, Producer, SCHEMA_VERSION};

/// Everything before the table.
const HEAD: &str = "\
# Events

Generated from `src/domain/event.rs` by `RUYI_UPDATE_DOCS=1 cargo test docs`; do not edit it by hand.

## Messages

The body is JSON: the fields of the table below (camelCase, except the ones of the pay gateway, which are snake_case),
`eventId` and `timestamp` (epoch ms). Ids are strings, amounts are numbers with at most two places, times are epoch ms.
Receivers ignore fields that they do not know, and a replay keeps them.

| where | what |
|---|---|
| topic | the event's name, unless `[mq.topics]` names another one |
| TAGS | the event's name |
| KEYS | the order id; all messages of one key are in one queue of their topic |
| property `eventId` | as in the body; what receivers drop duplicates by, never the broker's message id |
| property `eventType` | the event's name |
| property `schemaVersion` | `{version}` |
| property `source` | the program that wrote it |
| property `traceparent` | W3C trace context of what caused it, where there is one |

The event id is made from what happened, `<order id>:<EVENT>`, or `<order id>:<EVENT>:<n>` where an order may have it
more than once (REFUND_SUCCESS: the refund id). It is the same in the outbox, in a degraded send and in a replay. A
message of another system without it has the `eventId` of its body, or else its topic and key.

## Dead letters

A message that a group gives up is published to `%DLQ%<group>` with its body, key, tag and properties, and these:

| property | what |
|---|---|
| `dlqReason` | why it was given up |
| `dlqOriginTopic` | where it came from |
| `dlqFirstFailure` | when it failed first, epoch ms |
| `dlqAttempts` | how often it was tried |

## Catalogue

Each group handles each of its events once. `outside` are other systems and operators.

| event | from | to: group (role) | fields | what it says |
|---|---|---|---|---|
";

/// The text of `docs/events.md`.
#[must_use]
pub fn events_md() -> String {
    let mut text = HEAD.replace("{version}", SCHEMA_VERSION);
    for kind in Kind::ALL {
        let from = match kind.producer() {
            Producer::Role(role) => role.name(),
            Producer::Outside => "outside",
        };
        let groups: Vec<String> =
            kind.groups().iter().map(|group| format!("{} ({})", group.name(), group.role().name())).collect();
        let fields = kind.fields().join(", ");
        let (name, to, summary) = (kind.name(), groups.join("<br>"), kind.summary());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {from} | {to} | {fields} | {summary} |");
    }
    text
}
