//! A shop that sends SMS and e-mail to its users: to a real provider and a real mail server.

use std::collections::BTreeMap;

use ruyi::config::Millis;
use ruyi::db::Db;
use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::db::sql::{self, Columns};
use ruyi::domain::event::{Group, Kind};
use ruyi::fault::Faults;
use ruyi::mq::message::{Incoming, QueueId};
use ruyi::vals;
use serde_json::{Value, json};

use crate::support::mail_server::{Mail, MailServer};
use crate::support::outbound::{OutboundServer, Seen};
use crate::support::shop::{Setup, Shop};

pub const PHONE: &str = "+8613800138000";

pub const EMAIL: &str = "Bob.Lee@example.com";

/// The user of all orders here.
pub const USER: i64 = 7;

/// A shop with a provider of text messages and a mail server.
pub struct NoticeShop {
    pub shop: Shop,
    pub sms: OutboundServer,
    pub mail: MailServer,
}

impl NoticeShop {
    pub async fn new() -> Self {
        Self::with(&[], Faults::none()).await
    }

    pub async fn with(settings: &[&str], faults: Faults) -> Self {
        let sms = OutboundServer::start().await;
        let endpoint = sms.url("/sms");
        Self::at(&endpoint, sms, settings, faults).await
    }

    /// With the provider at `endpoint`.
    pub async fn at(endpoint: &str, sms: OutboundServer, settings: &[&str], faults: Faults) -> Self {
        Self::around(endpoint, sms, MailServer::start().await, settings, faults).await
    }

    /// With this mail server.
    pub async fn behind(mail: MailServer, settings: &[&str]) -> Self {
        Self::around("http://127.0.0.1:9/sms", OutboundServer::unbound(), mail, settings, Faults::none()).await
    }

    async fn around(endpoint: &str, sms: OutboundServer, mail: MailServer, settings: &[&str], faults: Faults) -> Self {
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
    pub async fn contact(&self, more: Value) {
        let mut body = json!({ "phone": PHONE, "email": EMAIL });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("/contacts/{USER}");
        let (status, answer) = self.shop.insist(http::Method::PUT, &path, None, Some(body)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// An ORDER_NOTIFICATION of another system, which comes twice, and what follows from it but the calls; its order.
    pub async fn told(&mut self, order: i64, template: &str, params: Value) -> i64 {
        let body = json!({ "userId": USER, "orderId": order, "template": template, "params": params });
        self.outside(Kind::OrderNotification, Group::Notification, order, &body).await;
        order
    }

    pub async fn outside(&mut self, kind: Kind, group: Group, order: i64, body: &Value) {
        for offset in 0..2 {
            let message = Incoming {
                queue: QueueId { topic: kind.name().to_owned(), broker: "outside".to_owned(), queue: 0 },
                offset,
                tag: String::new(),
                key: order.to_string(),
                body: body.to_string().into(),
                unreadable: None,
                properties: vec![],
                born_ms: 0,
                stored_ms: 0,
            };
            self.shop.queue(group).push(message);
        }
        while self.shop.turn().await {}
    }

    /// Makes the calls that are due; how many.
    pub async fn send(&self) -> usize {
        self.shop.notices(None).drain().await.unwrap()
    }

    /// As [`NoticeShop::send`], for a server that hangs.
    pub async fn send_in_vain(&self) -> usize {
        self.shop.notices(Some(Millis::new(300))).drain().await.unwrap()
    }

    /// Where the call about an order stands: state, attempts, next time, error.
    pub async fn state(&self, kind: Call, order: i64) -> (Status, i64, Option<i64>, String) {
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
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.sms.seen().iter().map(|seen| (field(seen, "template"), field(seen, "text"))).collect()
    }

    pub async fn nothing_is_told(&self) {
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
pub fn field(seen: &Seen, name: &str) -> String {
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    body[name].as_str().unwrap_or_default().to_owned()
}

/// Subject and text of an e-mail, decoded.
pub fn read(mail: &Mail) -> (String, String) {
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
