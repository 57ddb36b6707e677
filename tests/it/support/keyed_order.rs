//! An order that is sent with an idempotency key, and what its sender is told.

use reqwest::{Client, StatusCode};
use serde_json::Value;

/// What came instead of an order.
pub enum NoOrder {
    /// Nobody answered, or the answer was cut off: there may be an order all the same.
    NoAnswer,
    /// Another answer than that of an accepted order; `is_later` where it says when to come again.
    Refused { status: StatusCode, is_later: bool, text: String },
}

/// The order of `key`, or what came instead.
pub async fn place(client: &Client, url: &str, key: &str, body: &Value) -> Result<String, NoOrder> {
    let request = client.post(format!("{url}/orders")).header("idempotency-key", key).json(body);
    let response = request.send().await.map_err(|_| NoOrder::NoAnswer)?;
    let (status, is_later) = (response.status(), response.headers().contains_key("retry-after"));
    let text = response.text().await.map_err(|_| NoOrder::NoAnswer)?;
    let order: Option<Value> = serde_json::from_str(&text).ok().filter(|_| status == StatusCode::CREATED);
    let id = order.and_then(|order| order["orderId"].as_str().map(str::to_owned));
    id.ok_or(NoOrder::Refused { status, is_later, text })
}
