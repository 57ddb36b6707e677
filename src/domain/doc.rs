//! `docs/events.md`, written from the catalogue.

use std::fmt::Write;

use serde_json::Value;

use super::event::{Kind, Producer, SCHEMA_VERSION};
use super::schema;

/// The text of `docs/events.md`.
#[must_use]
pub fn events_md() -> String {
    let mut text = include_str!("events.md").replace("{version}", SCHEMA_VERSION);
    // Writing to a String cannot fail.
    for kind in Kind::ALL {
        let from = match kind.producer() {
            Producer::Role(role) => role.name(),
            Producer::Outside => "outside",
            Producer::Broadcast => "order, stock",
        };
        let mut groups: Vec<String> =
            kind.groups().iter().map(|group| format!("{} ({})", group.name(), group.role().name())).collect();
        if kind.producer() == Producer::Broadcast {
            groups.push("every process (broadcast)".to_owned());
        }
        if kind.is_for_outside() {
            groups.push("systems outside".to_owned());
        }
        let fields = kind.fields().join(", ");
        let (name, to, summary) = (kind.name(), groups.join("<br>"), kind.summary());
        let _ = writeln!(text, "| {name} | {from} | {to} | {fields} | {summary} |");
    }
    let _ =
        writeln!(text, "\n## Fields\n\nWhat must be there, ruyi cannot do without; the rest may be missing or null.");
    for kind in Kind::ALL {
        let _ = writeln!(text, "\n### {}\n\n| field | type | must | what |\n|---|---|---|---|", kind.name());
        for (name, schema, required) in schema::fields(kind) {
            let must = if required { "yes" } else { "" };
            let what = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
            let _ = writeln!(text, "| {name} | {} | {must} | {what} |", type_of(&schema));
        }
    }
    text
}

/// The type of a field, in the words of the section on types.
fn type_of(schema: &Value) -> &'static str {
    let about = schema["description"].as_str().unwrap_or_default().to_lowercase();
    match schema["type"].as_str().unwrap_or_default() {
        "string" if schema["pattern"].is_string() => "id",
        "string" if schema["enum"].is_array() => "word",
        "string" => "text",
        "number" => "amount",
        "integer" if about.contains("epoch ms") => "time",
        "integer" => "number",
        "array" => "list",
        "object" => "map",
        _ => "JSON",
    }
}
