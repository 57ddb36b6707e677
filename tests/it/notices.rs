//! SMS and e-mail to users, against a real provider and a real mail server.

mod contacts;
mod mail;
mod sms;
mod smtp;
mod texts;

use std::collections::BTreeMap;

use ruyi::config::{Config, Millis};
use ruyi::db::Db;
use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::{Group, Kind};
use ruyi::fault::Faults;
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::vals;
use serde_json::{Value, json};

use crate::delivery::world::{Seen, Server};
use crate::shop::{Setup, Shop};
use mail::{Mail, MailServer};

pub const PHONE: &str = "+8613800138000";
const EMAIL: &str = "Bob.Lee@example.com";
/// The user of all orders here.
const USER: i64 = 7;

/// A shop with a provider of text messages and a mail server.
struct World {
    shop: Shop,
    sms: Server,
    mail: MailServer,
}

impl World {
    async fn new() -> Self {
        Self::with(&[], Faults::none()).await
    }

    async fn with(settings: &[&str], faults: Faults) -> Self {
        let sms = Server::start().await;
        let endpoint = sms.url("/sms");
        Self::at(&endpoint, sms, settings, faults).await
    }

    /// With the provider at `endpoint`.
    async fn at(endpoint: &str, sms: Server, settings: &[&str], faults: Faults) -> Self {
        Self::around(endpoint, sms, MailServer::start().await, settings, faults).await
    }

    /// With this mail server.
    async fn behind(mail: MailServer, settings: &[&str]) -> Self {
        Self::around("http://127.0.0.1:9/sms", Server::unbound(), mail, settings, Faults::none()).await
    }

    async fn around(endpoint: &str, sms: Server, mail: MailServer, settings: &[&str], faults: Faults) -> Self {
        let fixed = [
            format!("notices.sms.endpoint={endpoint}"),
            "notices.sms.secret=sms secret".to_owned(),
            "notices.sms.sign_name=Tea shop".to_owned(),
            "notices.email.host=127.0.0.1".to_owned(),
            format!("notices.email.port={}", mail.port),
            "notices.email.tls=none".to_owned(),
            "notices.email.from=Tea shop <shop@tea.example>".to_owned(),
            "delivery.jitter=0".to_owned(),
            // Nothing that answers takes so long.
            "delivery.timeout=20s".to_owned(),
            "delivery.kinds.email.timeout=20s".to_owned(),
        ];
        let settings = fixed.into_iter().chain(settings.iter().map(|one| (*one).to_owned())).collect();
        let shop = Shop::with(Setup { settings, faults, ..Setup::default() }, 0).await;
        Self { shop, sms, mail }
    }

    /// Sets the contact of [`USER`].
    async fn contact(&self, more: Value) {
        let mut body = json!({ "phone": PHONE, "email": EMAIL });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("/contacts/{USER}");
        let (status, answer) = self.shop.insist(http::Method::PUT, &path, None, Some(body)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// An ORDER_NOTIFICATION of another system, which comes twice, and what follows from it but the calls; its order.
    async fn told(&mut self, order: i64, template: &str, params: Value) -> i64 {
        let body = json!({ "userId": USER, "orderId": order, "template": template, "params": params });
        self.outside(Kind::OrderNotification, Group::Notification, order, &body).await;
        order
    }

    async fn outside(&mut self, kind: Kind, group: Group, order: i64, body: &Value) {
        for offset in 0..2 {
            let message = Incoming {
                queue: QueueId { topic: kind.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
                offset,
                tag: String::new(),
                key: order.to_string(),
                body: body.to_string().into(),
                properties: vec![],
                born_ms: 0,
            };
            self.shop.queue(group).push(message);
        }
        while self.shop.turn().await {}
    }

    /// Makes the calls that are due; how many.
    async fn send(&self) -> usize {
        self.shop.notices(None).drain().await.unwrap()
    }

    /// As [`World::send`], for a server that hangs.
    async fn send_in_vain(&self) -> usize {
        self.shop.notices(Some(Millis::new(300))).drain().await.unwrap()
    }

    /// Where the call about an order stands: state, attempts, next time, error.
    async fn state(&self, kind: Call, order: i64) -> (Status, i64, Option<i64>, String) {
        let text = "SELECT status, attempts, next_at, last_error FROM delivery WHERE kind = ? AND order_id = ?";
        let mut conn = self.shop.db.read().await.unwrap();
        let rows = sql::fetch(&mut conn, text, vals![kind as i64, order]).await.unwrap();
        assert_eq!(rows.len(), 1, "one call about order {order}");
        let row = &rows[0];
        let code = row.int(0).unwrap();
        let status = Status::ALL.into_iter().find(|status| *status as i64 == code).unwrap();
        let error = row.maybe_text(3).unwrap().unwrap_or_default();
        (status, row.int(1).unwrap(), row.maybe_int(2).unwrap(), error)
    }

    /// Texts by template.
    fn texts(&self) -> BTreeMap<String, String> {
        self.sms.seen().iter().map(|seen| (field(seen, "template"), field(seen, "text"))).collect()
    }

    async fn nothing_is_told(&self) {
        nothing_is_told(&self.shop.db).await;
    }
}

/// No table but one, and nothing that a person is shown, has the number or the address.
pub async fn nothing_is_told(db: &Db) {
    let mut conn = db.read().await.unwrap();
    let tables = sql::fetch(&mut conn, "SELECT name FROM sqlite_master WHERE type = 'table'", vec![]).await.unwrap();
    for table in tables.iter().map(|row| row.text(0).unwrap()).filter(|name| name != "contact") {
        let columns = sql::fetch(&mut conn, format!("SELECT name FROM pragma_table_info('{table}')"), vec![]).await;
        for column in columns.unwrap().iter().map(|row| row.text(0).unwrap()) {
            // Without what stands between the digits of a number.
            let plain = format!("LOWER(REPLACE(REPLACE(CAST(\"{column}\" AS TEXT), ' ', ''), '-', ''))");
            let text = format!(
                "SELECT COUNT(*) FROM \"{table}\" WHERE {plain} LIKE '%3800138000%' OR {plain} LIKE '%bob.lee%'"
            );
            let found = sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap().int(0).unwrap();
            assert_eq!(found, 0, "{table}.{column}");
        }
    }
}

/// A field of what was posted to the provider.
fn field(seen: &Seen, name: &str) -> String {
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    body[name].as_str().unwrap_or_default().to_owned()
}

/// Subject and text of an e-mail, decoded.
fn read(mail: &Mail) -> (String, String) {
    let (_, body) = mail.text.split_once("\r\n\r\n").unwrap();
    let text = match mail.header("content-transfer-encoding").as_str() {
        "base64" => String::from_utf8(base64(&body.replace("\r\n", ""))).unwrap(),
        "quoted-printable" => String::from_utf8(quoted(&body.replace("=\r\n", ""))).unwrap(),
        _ => body.to_owned(),
    };
    (words(&mail.header("subject")), text)
}

/// A header with encoded words (RFC 2047), decoded.
fn words(header: &str) -> String {
    let (mut text, mut rest, mut after_word) = (String::new(), header, false);
    while let Some((plain, more)) = rest.split_once("=?utf-8?b?") {
        // What stands between two of them only folds the line.
        if !after_word || !plain.trim().is_empty() {
            text.push_str(plain);
        }
        let (word, more) = more.split_once("?=").unwrap();
        text.push_str(&String::from_utf8(base64(word)).unwrap());
        (rest, after_word) = (more, true);
    }
    text + rest
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for c in text.trim().trim_end_matches('=').chars() {
        let digit = DIGITS.find(c).unwrap_or_else(|| panic!("{c:?} in {text:?}"));
        bits = (bits << 6) | u32::try_from(digit).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap());
        }
    }
    bytes
}

fn quoted(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'=' && after.len() >= 2 {
            bytes.extend(hex::decode(&after[..2]).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

#[tokio::test]
async fn an_order_is_told_by_sms_and_e_mail_once() {
    let mut world = World::new().await;
    // The provider quotes the number in its own way.
    let quoting = crate::delivery::world::Answer {
        body: r#"{"code":"OK","detail":"sent to 138-0013-8000","mobile":"13800138000"}"#,
        ..crate::delivery::world::Answer::status(200)
    };
    world.sms.script([quoting; 8]);
    world.contact(json!({})).await;
    world.shop.manner.times = 2;
    world.shop.sell("TEA", 2_990, 10).await;
    let order = world.shop.place_order(USER, &[("TEA", 2)], json!({})).await;
    world.shop.settle_within(60_000).await;
    assert_eq!(world.shop.pay(&order, json!({})).await, 202);
    world.shop.settle_within(600_000).await;
    assert_eq!(world.send().await, 6);
    assert_eq!(world.send().await, 0, "everything was sent");
    let texts = world.texts();
    let (paid, signed) =
        (format!("您的订单 {order} 已支付成功，金额 59.80 元。"), format!("您的订单 {order} 已签收。"));
    assert_eq!((texts["ORDER_PAY_SUCCESS"].as_str(), texts["ORDER_SIGNED"].as_str()), (paid.as_str(), signed.as_str()));
    assert!(texts["ORDER_DELIVERY"].starts_with(&format!("您的订单 {order} 已发货")), "{texts:?}");
    assert_eq!((texts.len(), world.sms.seen().len()), (3, 3));
    for seen in world.sms.seen() {
        let secret = "sms secret".to_owned().into();
        let at_ms = world.shop.clock.now_ms();
        ruyi::delivery::sign::verify(&secret, &seen.headers, seen.body.as_bytes(), at_ms, 1_000).unwrap();
        assert_eq!((field(&seen, "to").as_str(), field(&seen, "signName").as_str()), (PHONE, "Tea shop"));
        let key = field(&seen, "idempotencyKey");
        assert!(!key.is_empty() && seen.header("idempotency-key") == key, "{seen:?}");
    }
    let mails = world.mail.taken();
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
    assert_eq!(world.shop.count("SELECT COUNT(*) FROM delivery_attempt WHERE answer LIKE '%***%'").await, 6);
    world.shop.audit().await;
    world.nothing_is_told().await;
}

#[tokio::test]
async fn users_choose_what_they_are_told_in_which_language() {
    let mut world = World::new().await;
    world.contact(json!({ "language": "en", "sms": { "PARCEL": false }, "emailTopics": { "ORDER": false } })).await;
    world.told(101, "ORDER_SIGNED", json!({})).await;
    world.told(102, "ORDER_PAY_SUCCESS", json!({ "amount": 7 })).await;
    // What has no text is for the application alone.
    world.told(103, "PARCEL_LATE", json!({ "days": 2 })).await;
    assert_eq!(world.send().await, 2);
    assert_eq!(
        world.texts(),
        BTreeMap::from([("ORDER_PAY_SUCCESS".into(), "Your order 102 is paid: CNY 7.00.".into())])
    );
    let mails: Vec<_> = world.mail.taken().iter().map(read).collect();
    assert_eq!(mails[0].0, "Order 101 was signed for");
    assert_eq!((mails.len(), world.shop.told().await.len()), (1, 3));
    // Switched off after the message was on its way.
    world.told(104, "ORDER_CANCELED", json!({ "by": "USER", "reason": "changed my mind" })).await;
    world.contact(json!({ "sms": { "ORDER": false }, "emailTopics": { "ORDER": false } })).await;
    assert_eq!(world.send().await, 1);
    let (status, attempts, next_at, error) = world.state(Call::Sms, 104).await;
    assert_eq!(
        (status, attempts, next_at, error.as_str()),
        (Status::Unsent, 0, None, "not sent: the user has switched it off")
    );
}

#[tokio::test]
async fn nobody_to_be_told_is_no_failure() {
    let mut world = World::new().await;
    // Nothing is known of the user: there is nothing to send.
    world.told(100, "ORDER_SIGNED", json!({})).await;
    assert_eq!(world.send().await, 0);
    world.contact(json!({ "phone": null, "email": null })).await;
    world.told(101, "ORDER_SIGNED", json!({})).await;
    assert_eq!(world.send().await, 2);
    for (kind, what) in [(Call::Sms, "phone number"), (Call::Email, "e-mail address")] {
        let (status, attempts, next_at, error) = world.state(kind, 101).await;
        assert_eq!((status, attempts, next_at), (Status::Unsent, 0, None));
        assert_eq!(error, format!("not sent: no {what} is known"));
    }
    assert_eq!((world.sms.seen().len(), world.mail.conversations()), (0, 0));
    assert_eq!(world.shop.count("SELECT COUNT(*) FROM delivery WHERE kind = 6").await, 0, "no alert");
    // Asked for once more by hand, with a contact, it is sent.
    world.contact(json!({})).await;
    let ids = world.shop.rows("SELECT CAST(id AS CHAR) FROM delivery").await;
    let ids = ids.iter().map(|row| row[0].parse().unwrap()).collect();
    ruyi::delivery::resend(&world.shop.db, ids).await.unwrap();
    assert_eq!(world.send().await, 2);
    assert_eq!(
        (world.state(Call::Sms, 101).await.0, world.state(Call::Email, 101).await.0),
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
    let mut world = World::new().await;
    world.contact(json!({})).await;
    let body =
        |template: &str| json!({ "userId": USER.to_string(), "orderId": 55, "template": template, "params": null });
    world.outside(Kind::SmsNotification, Group::Sms, 55, &body("ORDER_SIGNED")).await;
    world.outside(Kind::EmailNotification, Group::Email, 56, &body("NO_SUCH_TEXT")).await;
    assert_eq!(world.send().await, 1);
    assert_eq!((world.sms.only().path.as_str(), world.mail.taken().len()), ("/sms", 0));
    assert_eq!(world.shop.dead_letters().await, 1);
}

/// What the inbox has forgotten comes again: nothing is sent twice.
#[tokio::test]
async fn a_forgotten_event_is_told_no_second_time() {
    let mut world = World::new().await;
    world.contact(json!({})).await;
    for _ in 0..2 {
        world.told(101, "ORDER_SIGNED", json!({})).await;
        assert!(world.send().await <= 2);
        let forget = world.shop.db.write("prune", |tx| {
            Box::pin(async move { sql::execute(tx, "DELETE FROM message_process_log", vec![]).await })
        });
        assert!(forget.await.unwrap() > 0);
    }
    assert_eq!((world.sms.seen().len(), world.mail.taken().len()), (1, 1));
    assert_eq!((world.shop.parked().await, world.shop.dead_letters().await), (0, 0));
}
