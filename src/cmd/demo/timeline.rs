//! What happened to one order, from what HTTP tells.

use serde::Serialize;
use serde_json::Value;

use crate::client::Api;
use crate::domain::id::OrderId;

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Since the order was placed.
    pub after_ms: i64,
    /// Who tells.
    pub source: &'static str,
    /// What happened.
    pub what: String,
}

/// The moments of an order, in order of time.
///
/// # Errors
/// The order cannot be read; what payment and notify do not tell is left out.
pub async fn of(api: &Api, id: OrderId) -> anyhow::Result<Vec<Moment>> {
    let order: Value = serde_json::from_str(api.order(id).await?.get())?;
    let time = |value: &Value, name: &str| value.get(name).and_then(Value::as_i64);
    let text = |value: &Value, name: &str| value.get(name).map(plain).unwrap_or_default();
    let start_ms = time(&order, "createdAt").unwrap_or_default();
    let mut moments = Vec::new();
    let mut add = |at_ms: Option<i64>, source: &'static str, what: String| {
        moments.extend(at_ms.map(|at_ms| Moment { after_ms: at_ms - start_ms, source, what }));
    };
    let total = format!("{} {}", text(&order, "totalAmount"), text(&order, "currency"));
    add(Some(start_ms), "order", format!("placed: order {}, {total}", text(&order, "orderNo")));
    if let Ok(reply) = api.payment(id).await {
        let payment: Value = serde_json::from_str(reply.get())?;
        let how = format!("{}, transaction {}", text(&payment, "paymentMethod"), text(&payment, "transactionNo"));
        add(time(&payment, "payTime"), "payment", format!("{} by {how}", text(&payment, "status")));
    }
    if let Ok(reply) = api.notifications(&text(&order, "userId")).await {
        let told: Value = serde_json::from_str(reply.get())?;
        let wanted = id.to_string();
        let items = told.get("items").and_then(Value::as_array).into_iter().flatten();
        for item in items.filter(|item| text(item, "orderId") == wanted) {
            add(time(item, "createdAt"), "notify", format!("told the user: {}", text(item, "template")));
        }
    }
    let parcel = match text(&order, "trackingNo") {
        tracking if tracking.is_empty() => String::new(),
        tracking => format!(", {} {tracking}", text(&order, "carrier")),
    };
    add(time(&order, "updatedAt"), "order", format!("{}{parcel}", text(&order, "status")));
    // A stable sort: what has the same time stays in the order of the flow.
    moments.sort_by_key(|moment| moment.after_ms);
    Ok(moments)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
