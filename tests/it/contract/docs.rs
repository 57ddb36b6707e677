//! The generated documents are the ones in the repository. `RUYI_UPDATE_DOCS=1 scripts/test quick docs` writes them
//! anew.

use std::path::Path;

use ruyi::cmd::schemas;
use ruyi::domain::asyncapi;
use ruyi::domain::event::{Group, Kind, Producer};
use serde_json::{Value, json};

use crate::support::serving::Serving;

#[track_caller]
fn same(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("RUYI_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/{name} is out of date: run `RUYI_UPDATE_DOCS=1 scripts/test quick docs`");
}

/// The part of a document between the comments `<!-- NAME -->` and `<!-- /NAME -->` is `text`.
#[track_caller]
pub(super) fn same_part(name: &str, part: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let written = std::fs::read_to_string(path).unwrap();
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- /{part} -->"));
    let (before, rest) = written.split_once(&begin).expect("the part begins");
    let (_, after) = rest.split_once(&end).expect("the part ends");
    same(name, &format!("{before}{begin}{text}{end}{after}"));
}

#[test]
fn events_are_documented() {
    same("events.md", &ruyi::domain::doc::events_md());
}

#[test]
fn events_are_described_for_programs() {
    let document = asyncapi::document();
    check_references(&document, &document);
    let channels = document["channels"].as_object().unwrap();
    assert_eq!(channels.len(), Kind::ALL.len() + Group::ALL.len());
    for (name, operation) in document["operations"].as_object().unwrap() {
        assert!(["send", "receive"].contains(&operation["action"].as_str().unwrap()), "{name}");
        // A message of an operation is one of its channel's.
        let channel = operation["channel"]["$ref"].as_str().unwrap();
        for message in operation["messages"].as_array().unwrap() {
            assert!(message["$ref"].as_str().unwrap().starts_with(&format!("{channel}/messages/")), "{name}");
        }
    }
    for kind in Kind::ALL {
        let takers = kind.groups().iter().map(|group| format!("{}.takes.{}", group.name(), kind.name()));
        let senders = match kind.producer() {
            Producer::Role(role) => Some(format!("{}.sends.{}", role.name(), kind.name())),
            Producer::Outside => None,
            Producer::Broadcast => Some(format!("any.sends.{}", kind.name())),
        };
        for operation in takers.chain(senders) {
            assert!(document["operations"][&operation].is_object(), "{operation}");
        }
        let payload = &document["components"]["messages"][kind.name()]["payload"];
        assert_eq!(payload["type"], "object", "{}", kind.name());
        assert!(payload["required"].as_array().is_some_and(|all| !all.is_empty()), "{}", kind.name());
    }
    same("asyncapi.json", &format!("{document:#}\n"));
}

#[test]
fn outputs_are_described_for_programs() {
    for (command, schema) in schemas::all() {
        check_references(&schema, &schema);
        same(&format!("schemas/{}.json", command.replace(' ', "-")), &format!("{schema:#}\n"));
    }
}

/// Every `$ref` leads somewhere.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                assert!(document.pointer(to.strip_prefix('#').unwrap()).is_some(), "{to} is not there");
            }
            fields.values().for_each(|value| check_references(document, value));
        }
        Value::Array(all) => all.iter().for_each(|value| check_references(document, value)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_documented() {
    let serving = Serving::start(&[]).await;
    let api: Value = serving.get("/openapi.json").await;
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let about = format!("{method} {path}: {operation}");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{about}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{about}");
            assert!(operation["tags"][0].is_string(), "{about}");
        }
    }
    // An empty page is both of them, so it is any of them and not one.
    let list = &api["paths"]["/orders"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
    let listed = api.pointer(list.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
    let pages = ["OrderPage", "FoundPage"].map(|page| json!({"$ref": format!("#/components/schemas/{page}")}));
    assert_eq!(listed, &json!({"anyOf": pages}));
    same("openapi.json", &format!("{:#}\n", api));
    serving.stop().await;
}
