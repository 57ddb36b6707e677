//! The provider of text messages: when it is asked, and what it may do.

use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::fault::Faults;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::notice_shop::{NoticeShop, field};
use crate::support::outbound::{Answer, OutboundServer};
use crate::support::servers::START_MS;

/// 08:00 in New York, on the day on which every shop begins at 03:00 there.
const MORNING_MS: i64 = START_MS + 5 * 3_600_000;

#[tokio::test]
async fn quiet_hours_are_kept_for_sms_alone() {
    let mut notices = NoticeShop::new().await;
    let quiet = json!({ "from": "22:00", "to": "08:00", "timeZone": "America/New_York" });
    notices.contact(json!({ "quietHours": quiet })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    assert_eq!(notices.send().await, 2);
    assert_eq!((notices.sms.seen().len(), notices.mail.taken().len()), (0, 1));
    let (status, attempts, next_at, error) = notices.state(Call::Sms, 101).await;
    assert_eq!((status, attempts, next_at), (Status::Pending, 0, Some(MORNING_MS)));
    assert!(error.contains("quiet hours"), "{error}");
    notices.shop.clock.advance_ms(MORNING_MS - 1 - notices.shop.clock.now_ms());
    assert_eq!(notices.send().await, 0);
    notices.shop.clock.advance_ms(1);
    assert_eq!(notices.send().await, 1);
    assert_eq!((notices.sms.seen().len(), notices.state(Call::Sms, 101).await.0), (1, Status::Done));
}

#[tokio::test]
async fn failing_provider_is_asked_again_with_the_same_key() {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({})).await;
    notices.sms.script([Answer::status(500), Answer::status(429), Answer::status(200)]);
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    for wait_ms in [10_000, 30_000] {
        assert_eq!(notices.state(Call::Sms, 101).await.0, Status::Pending);
        notices.shop.clock.advance_ms(wait_ms);
        assert_eq!(notices.send().await, 1);
    }
    assert_eq!(notices.state(Call::Sms, 101).await.0, Status::Done);
    let keys: Vec<String> = notices.sms.seen().iter().map(|seen| field(seen, "idempotencyKey")).collect();
    assert_eq!(keys, vec![keys[0].clone(); 3]);
}

#[tokio::test]
async fn what_the_provider_refuses_is_final_and_names_nobody() {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({})).await;
    notices.sms.script([Answer { body: "no such number: (138) 0013-8000", ..Answer::status(400) }]);
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    let (status, attempts, _, error) = notices.state(Call::Sms, 101).await;
    assert_eq!((status, attempts), (Status::Refused, 1));
    assert!(error.contains("no such number") && !error.contains("8000"), "{error}");
    notices.nothing_is_told().await;
}

#[tokio::test]
async fn hanging_provider_is_given_up_on_and_asked_again() {
    let sms = OutboundServer::start().await;
    let endpoint = sms.url("/hold-first");
    let mut notices = NoticeShop::at(&endpoint, sms, &[], Faults::none()).await;
    notices.contact(json!({})).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send_in_vain().await;
    let (status, attempts, _, error) = notices.state(Call::Sms, 101).await;
    assert_eq!((status, attempts), (Status::Pending, 1));
    assert!(error.contains("timeout"), "{error}");
    // It answers late, and once more.
    notices.sms.open();
    notices.shop.clock.advance_ms(10_000);
    notices.send().await;
    assert_eq!(notices.state(Call::Sms, 101).await.0, Status::Done);
    let keys: std::collections::BTreeSet<String> =
        notices.sms.seen().iter().map(|seen| field(seen, "idempotencyKey")).collect();
    assert_eq!(keys.len(), 1);
}

/// Closes without a word at first; then answers twice on one connection.
#[tokio::test]
async fn a_provider_that_closes_early_and_then_answers_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/sms", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut first = true;
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut request, mut part) = (String::new(), [0; 4096]);
            // The body ends with the object.
            while !request.ends_with('}') {
                let count = stream.read(&mut part).await.unwrap_or(0);
                if count == 0 {
                    break;
                }
                request.push_str(&String::from_utf8_lossy(&part[..count]));
            }
            if !std::mem::take(&mut first) {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                let _ = stream.write_all(format!("{answer}{answer}").as_bytes()).await;
            }
        }
    });
    let mut notices = NoticeShop::at(&endpoint, OutboundServer::unbound(), &[], Faults::none()).await;
    notices.contact(json!({})).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.told(102, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    notices.shop.clock.advance_ms(10_000);
    notices.send().await;
    let (one, other) = (notices.state(Call::Sms, 101).await, notices.state(Call::Sms, 102).await);
    assert_eq!((one.0, other.0), (Status::Done, Status::Done));
    assert_eq!(one.1 + other.1, 3, "one of them was tried twice");
}

/// It dies between the call and its record: the repeated call has the same key, and so has the e-mail.
#[tokio::test]
async fn a_crash_after_the_call_repeats_it_recognisably() {
    let mut left = 1;
    let faults = Faults::plan(Box::new(move |name, stage| {
        let fails = name == "delivery" && stage == "called" && left > 0;
        left -= i32::from(fails);
        fails
    }));
    let mut notices = NoticeShop::with(&[], faults).await;
    notices.contact(json!({})).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.shop.notices(None).drain().await.unwrap_err();
    // What the engine had begun ends before its lease is over.
    notices.shop.clock.advance_ms(120_000);
    notices.send().await;
    let (sms, mails) = (notices.sms.seen(), notices.mail.taken());
    assert_eq!(
        (notices.state(Call::Sms, 101).await.0, notices.state(Call::Email, 101).await.0),
        (Status::Done, Status::Done)
    );
    assert!(sms.len() + mails.len() > 2, "something was sent twice");
    assert!(sms.iter().all(|seen| field(seen, "idempotencyKey") == field(&sms[0], "idempotencyKey")));
    assert!(mails.iter().all(|mail| mail.header("message-id") == mails[0].header("message-id")));
}
