//! JSON Schemas of the bodies, made from the types that read and write them: the form that ruyi writes, and that others
//! should write. What is read besides (`docs/events.md`) is not in them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::event::{self, Kind};
use super::id::{CouponId, MerchantId, OrderId, PaymentId, RefundId, UserId};
use super::money::Money;

macro_rules! id_schema {
    ($($name:ident),*) => {
        $(impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
                text.pattern(Some("^[1-9][0-9]{0,18}$")).into()
            }
        }

        impl ToSchema for $name {})*
    };
}

id_schema!(CouponId, OrderId, PaymentId, RefundId, UserId, MerchantId);

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        // `multipleOf: 0.01` would be right, and refused by every validator that calculates with doubles.
        let number = ObjectBuilder::new().schema_type(SchemaType::new(Type::Number));
        number.minimum(Some(0)).maximum(Some(Self::MAX_MINOR / 100)).into()
    }
}

impl ToSchema for Money {}

/// Schema (JSON Schema draft 7, the dialect of AsyncAPI) of an event's body: the envelope and the event's own fields. A
/// field is required when ruyi cannot do without it.
#[must_use]
pub fn of(kind: Kind) -> Value {
    let mut schema = match kind {
        Kind::OrderCreated => body::<event::OrderCreated>(),
        Kind::StockFrozen => body::<event::StockFrozen>(),
        Kind::StockFreezeFailed => body::<event::StockFreezeFailed>(),
        Kind::RefundFailed => body::<event::RefundFailed>(),
        Kind::PaymentSuccess => body::<event::PaymentSuccess>(),
        Kind::PaymentCloseRequested => body::<event::PaymentCloseRequested>(),
        Kind::PaymentCloseResult => body::<event::PaymentCloseResult>(),
        Kind::PaidOrderSuccess | Kind::PaidOrderSuccessRetry => body::<event::PaidOrderSuccess>(),
        Kind::OrderCanceled => body::<event::OrderCanceled>(),
        Kind::InventoryDeduct | Kind::InventoryRelease | Kind::InventoryDeductRetry => body::<event::Inventory>(),
        Kind::InventorySync => body::<event::InventorySync>(),
        Kind::OrderDataSync => body::<event::OrderDataSync>(),
        Kind::CacheInvalidate => body::<event::CacheInvalidate>(),
        Kind::CouponLocked | Kind::CouponUsed | Kind::CouponReleased => body::<event::CouponMoved>(),
        Kind::PointsGrant => body::<event::PointsGrant>(),
        Kind::PayTimeoutDelay => body::<event::PayTimeoutDelay>(),
        Kind::OrderAutoCancel => body::<event::OrderAutoCancel>(),
        Kind::TriggerOrderFulfill | Kind::TriggerOrderFulfillRetry => body::<event::TriggerOrderFulfill>(),
        Kind::OrderFulfillSuccess | Kind::OrderOutStock | Kind::OrderDelivery | Kind::OrderSigned => {
            body::<event::Fulfilment>()
        }
        Kind::OrderFulfillRefused => body::<event::FulfilRefused>(),
        Kind::RefundRequested => body::<event::RefundRequested>(),
        Kind::RefundSuccess => body::<event::RefundSuccess>(),
        Kind::OrderNotification | Kind::SmsNotification | Kind::EmailNotification => body::<event::OrderNotification>(),
        Kind::CallbackSubmit => body::<event::CallbackSubmit>(),
        Kind::OrderNotify => body::<event::OrderNotify>(),
        Kind::DayStatistics => body::<event::DayStatistics>(),
        Kind::MerchantChanged => body::<event::MerchantChanged>(),
    };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert(
            "eventId".into(),
            json!({ "type": "string", "minLength": 1, "maxLength": 96, "description": "What duplicates are known by." }),
        );
        properties.insert(
            "timestamp".into(),
            json!({ "type": "integer", "format": "int64", "description": "When it was written, epoch ms." }),
        );
    }
    Value::Object(schema)
}

/// The fields of an event in catalogue order, each with its schema and whether it is required.
#[must_use]
pub fn fields(kind: Kind) -> Vec<(&'static str, Value, bool)> {
    let schema = of(kind);
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let field = |name: &'static str| {
        let must = required.iter().any(|one| one == name);
        (name, schema["properties"][name].clone(), must)
    };
    kind.fields().iter().copied().map(field).collect()
}

fn body<B: ToSchema>() -> Map<String, Value> {
    let mut parts = Vec::new();
    B::schemas(&mut parts);
    let part = |(name, schema): (String, RefOr<Schema>)| (name, serde_json::to_value(schema).unwrap_or_default());
    let parts: BTreeMap<String, Value> = parts.into_iter().map(part).collect();
    let schema = serde_json::to_value(B::schema()).unwrap_or_default();
    let Value::Object(mut map) = inlined(schema, &parts) else { return Map::new() };
    // The words about the Rust type.
    map.remove("description");
    map
}

/// `schema` with the parts that it refers to in the places of the references. The bodies are no recursive types.
fn inlined(schema: Value, parts: &BTreeMap<String, Value>) -> Value {
    match schema {
        Value::Object(mut fields) => {
            let name = match fields.remove("$ref") {
                Some(Value::String(to)) => to.rsplit('/').next().map(str::to_owned),
                _ => None,
            };
            if let Some(Value::Object(part)) = name.and_then(|name| parts.get(&name)) {
                // What is said about the field stands before what is said about its type.
                part.iter().for_each(|(key, value)| {
                    fields.entry(key.clone()).or_insert_with(|| value.clone());
                });
            }
            // What may be missing may be null as well; the schema says what it is when it is there.
            let null = json!({ "type": "null" });
            match fields.get_mut("oneOf") {
                Some(Value::Array(all)) if all.contains(&null) => {
                    all.retain(|one| *one != null);
                    if let [Value::Object(only)] = &all[..] {
                        fields = only.clone();
                        return inlined(Value::Object(fields), parts);
                    }
                }
                _ => {}
            }
            if let Some(Value::Array(types)) = fields.get("type")
                && let Some(only) = types.iter().find(|one| **one != "null")
            {
                let only = only.clone();
                fields.insert("type".to_owned(), only);
            }
            Value::Object(fields.into_iter().map(|(key, value)| (key, inlined(value, parts))).collect())
        }
        Value::Array(all) => all.into_iter().map(|value| inlined(value, parts)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_names_the_fields_of_the_bodies() {
        for kind in Kind::ALL {
            let schema = of(kind);
            let mut found: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            let mut named = kind.fields().to_vec();
            named.extend(["eventId", "timestamp"]);
            found.sort_unstable();
            named.sort_unstable();
            assert_eq!(found, named, "{kind:?}");
            for (name, schema, _) in fields(kind) {
                assert!(schema["description"].is_string(), "{kind:?} {name}: {schema}");
            }
        }
    }
}
