//! The catalogue against the program: who emits what, who takes it, and what the messages look like.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use ruyi::config::Config;
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::{Group, Kind, Producer, Role, SCHEMA_VERSION};
use ruyi::domain::schema;
use ruyi::process;
use serde_json::{Value, json};

use crate::support::event_cases::PROVIDERS;
use crate::support::outbound::OutboundServer;
use crate::support::serving::Serving;

#[test]
fn every_group_has_one_handler() {
    let config = Config::example().unwrap();
    let mut groups: Vec<Group> = process::handlers(&config, &Role::ALL).iter().map(|handler| handler.group()).collect();
    groups.sort();
    let mut wanted = Group::ALL.to_vec();
    wanted.sort();
    assert_eq!(groups, wanted);
    for role in Role::ALL {
        for handler in process::handlers(&config, &[role]) {
            assert_eq!(handler.group().role(), role);
        }
    }
}

#[test]
fn names_are_told_apart_and_legal() {
    let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for name in names.into_iter().chain(Group::ALL.iter().map(|group| group.name())) {
        let legal = |c: char| c.is_ascii_alphanumeric() || "%|-_".contains(c);
        assert!(name.len() <= 64 && name.chars().all(legal), "{name}");
    }
}

struct Message {
    kind: Kind,
    /// False for one that was taken back before it left.
    sent: bool,
    event_id: String,
    tag: String,
    key: String,
    body: Value,
    properties: BTreeMap<String, String>,
}

async fn messages(serving: &Serving) -> Vec<Message> {
    let mut conn = serving.db().read().await.unwrap();
    let text = "SELECT topic, event_id, tag, msg_key, body, properties, status FROM message_record ORDER BY id";
    let rows = sql::fetch(&mut conn, text, vec![]).await.unwrap();
    let read = |row: &sqlx::any::AnyRow| {
        let properties: Vec<(String, String)> = serde_json::from_str(&row.text(5).unwrap()).unwrap();
        let topic = row.text(0).unwrap();
        Message {
            kind: Kind::from_name(&topic).unwrap_or_else(|| panic!("{topic} is not in the catalogue")),
            sent: row.int(6).unwrap() == 1,
            event_id: row.text(1).unwrap(),
            tag: row.text(2).unwrap(),
            key: row.text(3).unwrap(),
            body: serde_json::from_slice(&row.bytes(4).unwrap()).unwrap(),
            properties: properties.into_iter().collect(),
        }
    };
    rows.iter().map(read).collect()
}

/// Every path that an order can take; the ids of the orders.
async fn every_path(serving: &Serving) -> Vec<String> {
    serving.fill().await;
    let order = |more: Value| {
        let mut order = json!({"userId": "1", "items": [{"sku": "A1", "quantity": 1}], "remark": "r", "address": "a"});
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };
    let template = json!({"name": "n", "kind": "AMOUNT", "amountOff": 1, "stock": 2, "perUser": 2,
        "validUntil": "2099-01-01T00:00:00Z"});
    serving.fine(Method::PUT, "/coupons/ONE", &template).await;
    let mut coupons = vec![];
    for _ in 0..2 {
        let coupon = serving.fine(Method::POST, "/coupons/ONE/issue", &json!({"userId": "1"})).await;
        coupons.push(coupon["couponId"].clone());
    }
    serving.fine(Method::PUT, "/contacts/1", &json!({"language": "en"})).await;
    let told = OutboundServer::start().await;
    serving.fine(Method::PUT, "/merchants/1", &json!({"name": "m", "notifyUrl": told.url("/told")})).await;
    let signed = serving.place(&order(json!({"couponId": coupons[0]}))).await;
    let refunded = serving.place(&order(json!({"holdSeconds": 3_600, "couponId": coupons[1]}))).await;
    let canceled = serving.place(&order(json!({}))).await;
    let declined = serving.place(&order(json!({"address": "sandbox:refuse"}))).await;
    let sold_out = serving.place(&order(json!({"items": [{"sku": "B2", "quantity": 9_999}]}))).await;
    for id in [&signed, &refunded, &canceled, &declined] {
        serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    }
    for id in [&signed, &refunded, &declined] {
        serving.fine(Method::POST, &format!("/payments/{id}/pay"), &json!({})).await;
    }
    serving.until(&format!("/orders/{refunded}"), "status", "PAID").await;
    for id in [&refunded, &canceled] {
        serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({"reason": "changed my mind"})).await;
    }
    let ends = [(&signed, "SIGNED"), (&refunded, "REFUNDED"), (&declined, "REFUNDED"), (&canceled, "CANCELED")];
    for (id, outcome) in ends.into_iter().chain([(&sold_out, "CANCELED")]) {
        serving.until(&format!("/orders/{id}"), "outcome", outcome).await;
    }
    serving.settled().await;
    vec![signed, refunded, declined, canceled, sold_out]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_what_the_catalogue_says() {
    let settings = ["payment.channels.sandbox.submit=on_open", "order.timeout.via=broker"];
    let serving = Serving::start(&settings).await;
    let at_once = open_and_submit(&serving).await;
    serving.stop().await;

    let settings = PROVIDERS.into_iter().chain(["delivery.allow_private=true"]).collect::<Vec<_>>();
    let serving = Serving::start(&settings).await;
    let orders = every_path(&serving).await;
    let found = messages(&serving).await;
    let mut emitted: BTreeSet<Kind> = at_once;
    for message in &found {
        check(message);
        let of_no_order = [Kind::InventorySync, Kind::MerchantChanged].contains(&message.kind);
        assert!(of_no_order || orders.contains(&message.key), "{}: KEYS is {}", message.event_id, message.key);
        emitted.insert(message.kind);
    }
    let ours: BTreeSet<Kind> =
        Kind::ALL.into_iter().filter(|kind| matches!(kind.producer(), Producer::Role(_))).collect();
    // The sandbox refuses no refund: a bank that does is in the tests of refunds.
    emitted.insert(Kind::RefundFailed);
    // Roles that share a database ask no such thing: those that do not are in the tests of late payments.
    emitted.extend([Kind::PaymentCloseRequested, Kind::PaymentCloseResult]);
    assert_eq!(emitted, ours, "what is emitted is what the catalogue says that roles emit");

    // Each was handled once by each of its groups.
    let mut handled = BTreeSet::new();
    let mut conn = serving.db().read().await.unwrap();
    for row in
        sql::fetch(&mut conn, "SELECT consumer_group, message_id FROM message_process_log", vec![]).await.unwrap()
    {
        handled.insert((row.text(0).unwrap(), row.text(1).unwrap()));
    }
    drop(conn);
    let wanted: BTreeSet<_> = found
        .iter()
        .filter(|message| message.sent)
        .flat_map(|message| {
            message.kind.groups().iter().map(|group| (group.name().to_owned(), message.event_id.clone()))
        })
        .collect();
    assert_eq!(handled, wanted);
    serving.stop().await;
}

/// A payment that goes to its channel as soon as it is open; the kinds that were emitted.
async fn open_and_submit(serving: &Serving) -> BTreeSet<Kind> {
    serving.fill().await;
    let id = serving.place(&json!({"userId": "1", "items": [{"sku": "A1", "quantity": 1}]})).await;
    serving.until(&format!("/orders/{id}"), "outcome", "SIGNED").await;
    serving.settled().await;
    let found = messages(serving).await;
    found.iter().for_each(check);
    found.into_iter().map(|message| message.kind).collect()
}

fn check(message: &Message) {
    let Message { kind, event_id, tag, key, body, properties, .. } = message;
    assert_eq!(tag, kind.name());
    let plain = kind.event_id(key);
    if *kind == Kind::RefundSuccess {
        // An order may have more than one refund.
        assert_eq!(*event_id, format!("{plain}:{}", body["refundId"].as_str().unwrap()));
    } else if let Kind::DayStatistics | Kind::OrderNotify = kind {
        // An order is counted, and its merchant told, more than once.
        assert!(event_id.starts_with(&format!("{plain}:")), "{event_id}");
    } else if *kind == Kind::MerchantChanged {
        assert_eq!(*event_id, format!("{plain}:{}", body["version"]));
    } else if *kind == Kind::InventorySync {
        assert_eq!(*event_id, format!("{plain}:{}", body["version"]));
        assert_eq!(body["sku"], *key);
    } else if *kind == Kind::OrderDataSync {
        assert_eq!(*event_id, format!("{plain}:{}", body["version"]));
    } else if [Kind::SmsNotification, Kind::EmailNotification].contains(kind) {
        // What it tells of follows.
        assert!(event_id.starts_with(&format!("{plain}:")), "{event_id}");
    } else {
        assert_eq!(*event_id, plain);
    }
    assert_eq!(body["eventId"], *event_id);
    assert!(body["timestamp"].as_i64().unwrap() > 1_600_000_000_000, "{body}");
    let mut wanted: BTreeSet<&str> = kind.fields().iter().copied().collect();
    wanted.extend(["eventId", "timestamp"]);
    let fields: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    if *kind == Kind::RefundRequested && !fields.contains("refundId") {
        // All that is left of a canceled order's money.
        wanted.remove("refundId");
    }
    if *kind == Kind::OrderNotify && body["status"] == "PAID" {
        wanted.remove("refund_id");
    }
    if *kind == Kind::OrderDataSync && body["version"] != 1 {
        // What was ordered does not change.
        wanted.remove("productQuantityMap");
    }
    assert_eq!(fields, wanted, "{}", kind.name());
    fits(&schema::of(*kind), body, kind.name());
    for (field, value) in body.as_object().unwrap() {
        // Ids are strings, money and times are numbers.
        let (is_id, is_amount) =
            (field.ends_with("Id") && field != "eventId", field.to_lowercase().ends_with("amount"));
        assert!(!is_id || value.is_string(), "{field} of {}: {value}", kind.name());
        assert!(!is_amount || value.is_number(), "{field} of {}: {value}", kind.name());
    }
    assert_eq!(properties["eventId"], *event_id);
    assert_eq!(properties["eventType"], kind.name());
    assert_eq!(properties["schemaVersion"], SCHEMA_VERSION);
    assert!(!properties["source"].is_empty());
}

/// A value is as its schema says, for the keywords that the schemas of the bodies have.
#[track_caller]
fn fits(schema: &Value, value: &Value, at: &str) {
    let about = || format!("{at}: {value} does not fit {schema}");
    for key in schema.as_object().unwrap().keys() {
        let known = [
            "type",
            "format",
            "description",
            "properties",
            "required",
            "items",
            "oneOf",
            "anyOf",
            "enum",
            "pattern",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "additionalProperties",
            "propertyNames",
        ];
        assert!(known.contains(&key.as_str()), "{at}: what is {key}?");
    }
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: {other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(kinds) => assert!(kinds.iter().any(is), "{}", about()),
        kind => assert!(is(kind), "{}", about()),
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{}", about());
    }
    if let (Some(number), Some(low)) = (value.as_f64(), schema["minimum"].as_f64()) {
        assert!(number >= low && number <= schema["maximum"].as_f64().unwrap_or(f64::MAX), "{}", about());
    }
    if let (Some(text), Some(_)) = (value.as_str(), schema["pattern"].as_str()) {
        // The one pattern that there is.
        assert!(text.parse::<i64>().is_ok_and(|id| id > 0 && id.to_string() == text), "{}", about());
    }
    let empty = serde_json::Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{}", about());
    }
    for (name, part) in fields {
        let own = &schema["properties"][name];
        let other = &schema["additionalProperties"];
        if let Some(schema) = [own, other].into_iter().find(|schema| schema.is_object()) {
            fits(schema, part, &format!("{at}.{name}"));
        }
    }
    for part in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        fits(&schema["items"], part, &format!("{at}[]"));
    }
}
