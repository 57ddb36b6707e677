//! The one reader of the bodies of events. What ruyi writes is read as it stands; what other systems write is read by
//! [what it means](crate::domain::loose), and what they leave out is taken from what is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::domain::event::Kind;
use crate::domain::id::MerchantId;
use crate::domain::loose::{self, Loose};
use crate::domain::time::epoch_ms;

/// The key of `mq.zones` that stands for every topic without an entry of its own.
const EVERY_OTHER: &str = "default";

/// Reads bodies. A cheap clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader(Arc<Defaults>);

/// What bodies do not say.
#[derive(Debug, PartialEq, Eq)]
struct Defaults {
    pay_within_ms: i64,
    /// `None`: an order has to name it.
    channel: Option<String>,
    zone: TimeZone,
    zones: HashMap<&'static str, TimeZone>,
}

impl Default for Reader {
    /// Times are UTC, nothing else is known.
    fn default() -> Self {
        Self(Arc::new(Defaults { pay_within_ms: 0, channel: None, zone: TimeZone::UTC, zones: HashMap::new() }))
    }
}

impl Reader {
    /// As the configuration says: `mq.zones`, `order.timeout.after`, and [the channel](crate::config::Payment::only_channel).
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let zone = |name: &str| zone_of(&config.mq.zones, name);
        let zones = Kind::ALL.into_iter().filter_map(|kind| Some((kind.name(), zone(kind.name())?))).collect();
        Self(Arc::new(Defaults {
            pay_within_ms: config.order.timeout.after.ms(),
            channel: config.payment.only_channel().map(str::to_owned),
            zone: zone(EVERY_OTHER).unwrap_or(TimeZone::UTC),
            zones,
        }))
    }

    /// Reads the body of an event.
    ///
    /// # Errors
    /// What cannot be read, with the name of the field.
    pub fn read<B: DeserializeOwned>(&self, kind: Kind, body: &[u8]) -> Result<B, String> {
        serde_json::from_slice(body).or_else(|_| self.read_loosely(kind, body))
    }

    fn read_loosely<B: DeserializeOwned>(&self, kind: Kind, body: &[u8]) -> Result<B, String> {
        let mut body = loose::parse(body).map_err(|error| error.to_string())?;
        let zone = self.0.zones.get(kind.name()).unwrap_or(&self.0.zone);
        if let Value::Object(fields) = &mut body {
            self.complete(kind, fields, zone);
        }
        serde_path_to_error::deserialize(Loose::new(body, zone)).map_err(|error| error.to_string())
    }

    /// Adds what a service of another house leaves out, because to it it goes without saying.
    fn complete(&self, kind: Kind, fields: &mut Map<String, Value>, zone: &TimeZone) {
        let sent_at = fields.get("timestamp").and_then(|at| moment(at, zone));
        let mut add = |name: &str, value: Value| {
            let is_there = fields.get(name).is_some_and(|value| !value.is_null() && *value != "");
            if !is_there {
                fields.insert(name.to_owned(), value);
            }
        };
        match kind {
            Kind::OrderCreated | Kind::StockFrozen => {
                add("merchantId", MerchantId::SHOP.0.into());
                if let Some(channel) = &self.0.channel {
                    add("channelId", channel.as_str().into());
                }
                if let Some(sent_at) = sent_at {
                    add("expireTime", (sent_at + self.0.pay_within_ms).into());
                }
            }
            Kind::PaymentSuccess | Kind::PaidOrderSuccess | Kind::PaidOrderSuccessRetry => {
                if let Some(sent_at) = sent_at {
                    add("payTime", sent_at.into());
                }
            }
            _ => {}
        }
    }
}

/// The zone of this entry of `mq.zones`.
fn zone_of(zones: &BTreeMap<String, String>, name: &str) -> Option<TimeZone> {
    zones.get(name).and_then(|zone| TimeZone::get(zone).ok())
}

fn moment(at: &Value, zone: &TimeZone) -> Option<i64> {
    #[derive(Deserialize)]
    struct Moment(#[serde(deserialize_with = "epoch_ms")] i64);
    Moment::deserialize(Loose::new(at.clone(), zone)).ok().map(|moment| moment.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::domain::event::{
        CallbackSubmit, DayStatistics, OrderCreated, OrderNotify, PaymentSuccess, StockFreezeFailed,
    };

    const SENT_AT: i64 = 1_795_978_754_346;

    fn reader(settings: &[&str]) -> Reader {
        let sets = settings.iter().map(|one| (*one).to_owned()).collect();
        Reader::of(&Config::load(&Sources { sets, ..Sources::default() }).unwrap())
    }

    /// As the real frameworks of such services write them: Spring Cloud Stream with fastjson, a pay gateway in Python.
    #[test]
    fn bodies_of_other_houses_are_read() {
        let reader = reader(&["order.timeout.after=30m", "mq.zones.CALLBACK_SUBMIT=Asia/Shanghai"]);
        let created: OrderCreated = reader
            .read(
                Kind::OrderCreated,
                br#"{"orderId":1,"orderNo":"O1","userId":1,"totalAmount":99.00,"productQuantityMap":{1001:2},"remark":"",
                    "timestamp":1795978754346,"eventId":"e-1"}"#,
            )
            .unwrap();
        assert_eq!(created.product_quantity_map.get("1001"), Some(&2));
        assert_eq!((created.merchant_id.0, created.channel_id.as_str()), (1, "sandbox"));
        assert_eq!(created.expire_time, SENT_AT + 30 * 60_000);

        let paid: PaymentSuccess = reader
            .read(
                Kind::PaymentSuccess,
                br#"{"paymentId":3,"orderId":1,"orderNo":"O1","userId":1,"amount":99.00,"paymentMethod":"ALIPAY",
                    "transactionNo":"TXN1","timestamp":1795978754346,"eventId":"e-2"}"#,
            )
            .unwrap();
        assert_eq!((paid.pay_time, paid.amount.minor()), (SENT_AT, 9_900));

        let submit: CallbackSubmit = reader
            .read(
                Kind::CallbackSubmit,
                br#"{"order_no":"PAY1","out_order_no":"MCH1","plugin_id":1,"plugin_type":"alipay_phone","money":10000,
                    "product_id":"123","channel_id":1,"merchant_id":1,"tenant_id":1,
                    "create_datetime":"2024-01-01 12:00:00"}"#,
            )
            .unwrap();
        let texts = [&submit.plugin_id, &submit.channel_id, &submit.tenant_id];
        assert_eq!((texts, submit.create_datetime), ([&"1".to_owned(); 3], 1_704_081_600_000));

        let notify: OrderNotify = reader
            .read(
                Kind::OrderNotify,
                br#"{"order_id":"x","order_no":"PAY1","out_order_no":"MCH1","money":10000,"status":2,
                    "notify_url":"https://example.com/notify","retry_count":0}"#,
            )
            .unwrap();
        assert_eq!((notify.order_id.as_str(), notify.status.as_str()), ("x", "2"));

        let day: DayStatistics = reader
            .read(
                Kind::DayStatistics,
                br#"{"product_id":"123","channel_id":1,"tenant_id":1,"money":10000,"date":"2024-01-01",
                    "statistics_type":"success","extra_arg":0}"#,
            )
            .unwrap();
        assert_eq!((day.extra_arg.as_str(), day.statistics_type.as_str()), ("0", "success"));
    }

    #[test]
    fn orders_without_a_channel_take_the_only_one() {
        let bank = |name: &str| {
            let secret = "0123456789abcdef0123456789abcdef";
            format!(r#"payment.channels.{name}={{kind="http",secret="{secret}",endpoint="http://127.0.0.1:1"}}"#)
        };
        let body =
            br#"{"orderId":1,"orderNo":"O1","userId":1,"totalAmount":9,"productQuantityMap":{"A":2},"timestamp":1}"#;
        let channel_of = |settings: &[&str]| {
            let created = reader(settings).read::<OrderCreated>(Kind::OrderCreated, body);
            created.map(|created| created.channel_id)
        };
        let (one, other) = (bank("first"), bank("other"));
        assert_eq!(channel_of(&[]).as_deref(), Ok("sandbox"));
        assert_eq!(channel_of(&[&one]).as_deref(), Ok("first"));
        let error = channel_of(&[&one, &other]).unwrap_err();
        assert!(error.contains("channelId"), "{error}");
    }

    #[test]
    fn what_is_missing_for_good_is_named() {
        let reader = reader(&["mq.zones.default=Asia/Shanghai"]);
        for (body, why) in [
            (r#"{"paymentId":1,"orderId":null,"userId":3,"amount":1,"payTime":1}"#, "orderId"),
            (r#"{"paymentId":1,"orderId":7,"userId":3,"amount":0.001,"payTime":1}"#, "at most two places"),
            (r#"{"paymentId":1,"orderId":7,"userId":3,"amount":1,"payTime":"2026-01-32T08:00:00"}"#, "with its zone"),
            (r#"{"paymentId":"P1","orderId":7,"userId":3,"amount":1,"payTime":1}"#, "a payment id"),
            (r#"{"paymentId":1,"orderId":7,"userId":3,"amount":1}"#, "payTime"),
            ("null", "PaymentSuccess"),
            ("{", "EOF"),
        ] {
            let error = reader.read::<PaymentSuccess>(Kind::PaymentSuccess, body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
        let body = r#"{"paymentId":1,"orderId":7,"userId":3,"amount":"1","payTime":"2026-01-01T08:00:00"}"#;
        let paid: PaymentSuccess = reader.read(Kind::PaymentSuccess, body.as_bytes()).unwrap();
        assert_eq!(paid.pay_time, 1_767_225_600_000);
        let refused = br#"{"orderId":"7","orderNo":null,"reason":404}"#;
        let refused: StockFreezeFailed = reader.read(Kind::StockFreezeFailed, refused).unwrap();
        assert_eq!(refused.reason, "404");
    }
}
