//! The provider of text messages, and where the numbers of users must not be.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use axum::http::Method;
use serde_json::json;
use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::notice_shop::{PHONE, nothing_is_told};
use crate::support::parties::{Act, Party, body, impatient, is_consistent, key, scripts};

/// What is logged, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn dispatch(&self) -> Dispatch {
        let filter = tracing_subscriber::EnvFilter::new("trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(self.clone()).finish().into()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// The number of the user, however it is written.
fn names_somebody(text: &str) -> bool {
    text.replace(['-', ' ', '(', ')'], "").contains("3800138000")
}

/// On one thread, so that all that is logged comes by.
#[tokio::test]
async fn user_is_told_once_only_provider_sees_the_number() {
    // What only one subscriber hears is not asked for where another thread comes by first.
    let _other = Log::default().dispatch();
    let log = Log::default();
    let _hears = tracing::dispatcher::set_default(&log.dispatch());
    let mut scripts = scripts();
    for act in scripts.iter_mut().flatten() {
        if matches!(act, Act::Say(..)) {
            *act = Act::Say(500, "138-0013-8000 is off");
        }
    }
    // Of an order three things are told.
    let orders = scripts.len().div_ceil(3);
    let messages = 3 * orders;
    let provider = Party::start("/sms", scripts, Act::Say(200, r#"{"sent": "+8613800138000"}"#)).await;
    let serving = impatient(&[format!("notices.sms.endpoint={}", provider.url("/sms"))]).await;
    serving.fine(Method::PUT, "/contacts/7", &json!({ "phone": PHONE })).await;
    for _ in 0..orders {
        let order = serving.place(&json!({ "userId": "7", "items": [{ "sku": "A1", "quantity": 1 }] })).await;
        serving.until(&format!("/payments/{order}"), "status", "PENDING").await;
        serving.fine(Method::POST, &format!("/payments/{order}/pay"), &json!({})).await;
        serving.until(&format!("/orders/{order}"), "status", "SIGNED").await;
    }
    provider.has_done(messages).await;
    is_consistent(&serving).await;
    provider.is_asked_for(messages);
    for seen in provider.asked() {
        let asked = body(&seen);
        assert_eq!((asked["to"].as_str(), asked["idempotencyKey"].as_str()), (Some(PHONE), Some(key(&seen))));
    }
    let texts: BTreeSet<String> = provider.done().iter().map(|seen| body(seen)["text"].to_string()).collect();
    assert_eq!(texts.len(), messages, "each says something else");

    nothing_is_told(serving.db()).await;
    let calls = serving.get("/deliveries?kind=sms").await;
    for call in calls["items"].as_array().unwrap() {
        let whole = serving.get(&format!("/deliveries/{}", call["id"].as_str().unwrap())).await.to_string();
        assert!(whole.contains("***") && !names_somebody(&whole), "{whole}");
    }
    serving.stop().await;
    let text = log.text();
    assert!(text.contains("call failed for now"), "it hears what is logged");
    assert_eq!(text.lines().find(|line| names_somebody(line)), None);
}
