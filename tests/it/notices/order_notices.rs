//! SMS and e-mail to users, against a real provider and a real mail server.

use std::collections::BTreeMap;

use ruyi::config::Config;
use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::db::sql::{self};
use ruyi::domain::event::{Group, Kind};
use serde_json::json;

use crate::support::notice_shop::{EMAIL, NoticeShop, PHONE, USER, field, read};
use crate::support::shop::Shop;

#[tokio::test]
async fn order_is_told_once_by_sms_and_email() {
    let mut notices = NoticeShop::new().await;
    // The provider quotes the number in its own way.
    let quoting = crate::support::outbound::Answer {
        body: r#"{"code":"OK","detail":"sent to 138-0013-8000","mobile":"13800138000"}"#,
        ..crate::support::outbound::Answer::status(200)
    };
    notices.sms.script([quoting; 8]);
    notices.contact(json!({})).await;
    notices.shop.manner.times = 2;
    notices.shop.sell("TEA", 2_990, 10).await;
    let order = notices.shop.place_order(USER, &[("TEA", 2)], json!({})).await;
    notices.shop.settle_within(60_000).await;
    assert_eq!(notices.shop.pay(&order, json!({})).await, 202);
    notices.shop.settle_within(600_000).await;
    assert_eq!(notices.send().await, 6);
    assert_eq!(notices.send().await, 0, "everything was sent");
    let texts = notices.texts();
    let (paid, signed) =
        (format!("您的订单 {order} 已支付成功，金额 59.80 元。"), format!("您的订单 {order} 已签收。"));
    assert_eq!((texts["ORDER_PAY_SUCCESS"].as_str(), texts["ORDER_SIGNED"].as_str()), (paid.as_str(), signed.as_str()));
    assert!(texts["ORDER_DELIVERY"].starts_with(&format!("您的订单 {order} 已发货")), "{texts:?}");
    assert_eq!((texts.len(), notices.sms.seen().len()), (3, 3));
    for seen in notices.sms.seen() {
        let secret = "sms secret".to_owned().into();
        let at_ms = notices.shop.clock.now_ms();
        ruyi::delivery::sign::verify(&secret, &seen.headers, seen.body.as_bytes(), at_ms, 1_000).unwrap();
        assert_eq!((field(&seen, "to").as_str(), field(&seen, "signName").as_str()), (PHONE, "Tea shop"));
        let key = field(&seen, "idempotencyKey");
        assert!(!key.is_empty() && seen.header("idempotency-key") == key, "{seen:?}");
    }
    let mails = notices.mail.taken();
    let mut subjects: Vec<String> = mails.iter().map(|mail| read(mail).0).collect();
    subjects.sort();
    let subject = |what: &str| format!("订单 {order} {what}");
    assert_eq!(subjects, [subject("已发货"), subject("已签收"), subject("支付成功")]);
    for mail in &mails {
        assert_eq!(mail.to, EMAIL);
        assert!(mail.header("from").contains("shop@tea.example"), "{mail:?}");
        assert_eq!(mail.header("auto-submitted"), "auto-generated");
    }
    let paid = mails.iter().find(|mail| read(mail).0.ends_with("支付成功")).unwrap();
    assert!(read(paid).1.contains("金额 59.80 元"), "{:?}", read(paid));
    assert_eq!(notices.shop.count("SELECT COUNT(*) FROM delivery_attempt WHERE answer LIKE '%***%'").await, 6);
    notices.shop.audit().await;
    notices.nothing_is_told().await;
}

#[tokio::test]
async fn users_choose_what_they_are_told_in_which_language() {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({ "language": "en", "sms": { "PARCEL": false }, "emailTopics": { "ORDER": false } })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.told(102, "ORDER_PAY_SUCCESS", json!({ "amount": 7 })).await;
    // What has no text is for the application alone.
    notices.told(103, "PARCEL_LATE", json!({ "days": 2 })).await;
    assert_eq!(notices.send().await, 2);
    assert_eq!(
        notices.texts(),
        BTreeMap::from([("ORDER_PAY_SUCCESS".into(), "Your order 102 is paid: CNY 7.00.".into())])
    );
    let mails: Vec<_> = notices.mail.taken().iter().map(read).collect();
    assert_eq!(mails[0].0, "Order 101 was signed for");
    assert_eq!((mails.len(), notices.shop.told().await.len()), (1, 3));
    // Switched off after the message was on its way.
    notices.told(104, "ORDER_CANCELED", json!({ "by": "USER", "reason": "changed my mind" })).await;
    notices.contact(json!({ "sms": { "ORDER": false }, "emailTopics": { "ORDER": false } })).await;
    assert_eq!(notices.send().await, 1);
    let (status, attempts, next_at, error) = notices.state(Call::Sms, 104).await;
    assert_eq!(
        (status, attempts, next_at, error.as_str()),
        (Status::Unsent, 0, None, "not sent: the user has switched it off")
    );
}

#[tokio::test]
async fn nobody_to_be_told_is_no_failure() {
    let mut notices = NoticeShop::new().await;
    // Nothing is known of the user: there is nothing to send.
    notices.told(100, "ORDER_SIGNED", json!({})).await;
    assert_eq!(notices.send().await, 0);
    notices.contact(json!({ "phone": null, "email": null })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    assert_eq!(notices.send().await, 2);
    for (kind, what) in [(Call::Sms, "phone number"), (Call::Email, "e-mail address")] {
        let (status, attempts, next_at, error) = notices.state(kind, 101).await;
        assert_eq!((status, attempts, next_at), (Status::Unsent, 0, None));
        assert_eq!(error, format!("not sent: no {what} is known"));
    }
    assert_eq!((notices.sms.seen().len(), notices.mail.conversations()), (0, 0));
    assert_eq!(notices.shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 6").await, 0, "no alert");
    // Asked for once more by hand, with a contact, it is sent.
    notices.contact(json!({})).await;
    let ids = notices.shop.rows("SELECT CAST(id AS CHAR) FROM delivery").await;
    let ids = ids.iter().map(|row| row[0].parse().unwrap()).collect();
    ruyi::delivery::resend(&notices.shop.db, ids).await.unwrap();
    assert_eq!(notices.send().await, 2);
    assert_eq!(
        (notices.state(Call::Sms, 101).await.0, notices.state(Call::Email, 101).await.0),
        (Status::Done, Status::Done)
    );
}

#[tokio::test]
async fn without_a_provider_nothing_leaves() {
    let mut shop = Shop::open().await;
    shop.sell("TEA", 1_000, 10).await;
    let order = shop.place_order(USER, &[("TEA", 1)], json!({})).await;
    shop.settle_within(60_000).await;
    assert_eq!(shop.cancel(&order).await, 200);
    shop.settle_within(60_000).await;
    assert_eq!(shop.told().await[&order], ["ORDER_CANCELED"]);
    assert_eq!(
        shop.count("SELECT COUNT(*) FROM message_record WHERE topic IN ('SMS_NOTIFICATION', 'EMAIL_NOTIFICATION')")
            .await,
        0
    );
    let config = Config::example().unwrap();
    assert!(config.notices.sms.endpoint.is_empty() && config.notices.email.host.is_empty());
}

/// A wish of another system for one way alone; one for a text that is not there is a dead letter.
#[tokio::test]
async fn other_systems_ask_for_an_sms() {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({})).await;
    let body =
        |template: &str| json!({ "userId": USER.to_string(), "orderId": 55, "template": template, "params": null });
    notices.outside(Kind::SmsNotification, Group::Sms, 55, &body("ORDER_SIGNED")).await;
    notices.outside(Kind::EmailNotification, Group::Email, 56, &body("NO_SUCH_TEXT")).await;
    assert_eq!(notices.send().await, 1);
    assert_eq!((notices.sms.only().path.as_str(), notices.mail.taken().len()), ("/sms", 0));
    assert_eq!(notices.shop.dead_letters().await, 1);
}

/// What the inbox has forgotten comes again: nothing is sent twice.
#[tokio::test]
async fn a_forgotten_event_is_told_no_second_time() {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({})).await;
    for _ in 0..2 {
        notices.told(101, "ORDER_SIGNED", json!({})).await;
        assert!(notices.send().await <= 2);
        let forget = notices.shop.db.write("prune", |tx| {
            Box::pin(async move { sql::execute(tx, "DELETE FROM message_process_log", vec![]).await })
        });
        assert!(forget.await.unwrap() > 0);
    }
    assert_eq!((notices.sms.seen().len(), notices.mail.taken().len()), (1, 1));
    assert_eq!((notices.shop.parked().await, notices.shop.dead_letters().await), (0, 0));
}
