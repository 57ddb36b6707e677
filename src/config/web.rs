//! The HTTP side: where roles listen, who may call, and where the client subcommands call.

use std::net::SocketAddr;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Millis};
use crate::domain::id::MerchantId;

/// The HTTP servers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `serve order`.
    pub order: SocketAddr,
    /// `serve payment`.
    pub payment: SocketAddr,
    /// `serve stock`.
    pub stock: SocketAddr,
    /// `serve notify`.
    pub notify: SocketAddr,
    /// `serve all`.
    pub all: SocketAddr,
    /// Probes and metrics of workers; empty is none.
    #[serde(with = "maybe_addr")]
    pub worker: Option<SocketAddr>,
    /// Largest request body.
    pub body_limit: ByteSize,
    /// Requests in work at once.
    pub concurrency: usize,
    /// Requests per second of each API key; 0 is no limit.
    pub rate_limit: u32,
    /// One request.
    pub request_timeout: Millis,
    /// A request that others are written before for so long is refused.
    pub queue_wait: Millis,
    /// Open connections of one listener, beside a few for probes.
    pub connections: usize,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Millis,
    /// How long it may take to send the head of one.
    pub head_timeout: Millis,
    /// How long it may take to take an answer.
    pub write_timeout: Millis,
    /// `order:write` and the other scopes for writing also mean what has scopes of its own by now.
    pub wide_scopes: bool,
    /// Who may call. Empty: anyone, but only on loopback.
    pub keys: Vec<ApiKey>,
}

/// An API key, of which only the hash is known.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whose key it is; appears in logs.
    pub name: String,
    /// SHA-256 of the key, 64 hex digits.
    pub sha256: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The merchant that it acts for, and for no other; none: for the shop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<MerchantId>,
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Scope {
    /// Read orders and products.
    #[serde(rename = "order:read")]
    OrderRead,
    /// Place and cancel orders, and change where they go.
    #[serde(rename = "order:write")]
    OrderWrite,
    /// Write products and their prices.
    #[serde(rename = "product:write")]
    ProductWrite,
    /// Write templates of coupons, and issue coupons.
    #[serde(rename = "coupon:write")]
    CouponWrite,
    /// Give money back.
    #[serde(rename = "refund:write")]
    RefundWrite,
    /// Make outgoing calls once more, and take them back.
    #[serde(rename = "delivery:write")]
    DeliveryWrite,
    /// Read payments.
    #[serde(rename = "payment:read")]
    PaymentRead,
    /// Pay; open and close payments of merchants.
    #[serde(rename = "payment:write")]
    PaymentWrite,
    /// Read stock.
    #[serde(rename = "stock:read")]
    StockRead,
    /// Adjust stock.
    #[serde(rename = "stock:write")]
    StockWrite,
    /// Read points, notifications and statistics.
    #[serde(rename = "notify:read")]
    NotifyRead,
    /// Spend points; write contacts and merchants.
    #[serde(rename = "notify:write")]
    NotifyWrite,
    /// Read what was sent, handled and parked.
    #[serde(rename = "message:read")]
    MessageRead,
    /// Have parked messages tried again.
    #[serde(rename = "message:write")]
    MessageWrite,
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OrderRead,
        Self::OrderWrite,
        Self::ProductWrite,
        Self::CouponWrite,
        Self::RefundWrite,
        Self::DeliveryWrite,
        Self::PaymentRead,
        Self::PaymentWrite,
        Self::StockRead,
        Self::StockWrite,
        Self::NotifyRead,
        Self::NotifyWrite,
        Self::MessageRead,
        Self::MessageWrite,
        Self::Admin,
    ];

    /// The name used in the configuration and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrderRead => "order:read",
            Self::OrderWrite => "order:write",
            Self::ProductWrite => "product:write",
            Self::CouponWrite => "coupon:write",
            Self::RefundWrite => "refund:write",
            Self::DeliveryWrite => "delivery:write",
            Self::PaymentRead => "payment:read",
            Self::PaymentWrite => "payment:write",
            Self::StockRead => "stock:read",
            Self::StockWrite => "stock:write",
            Self::NotifyRead => "notify:read",
            Self::NotifyWrite => "notify:write",
            Self::MessageRead => "message:read",
            Self::MessageWrite => "message:write",
            Self::Admin => "admin",
        }
    }
}

/// Where the client subcommands call.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Base URLs of the order role, between commas; empty is [`Client::DEFAULT_URL`].
    #[serde(serialize_with = "super::secret::shown")]
    pub order: String,
    /// Those of the payment role.
    #[serde(serialize_with = "super::secret::shown")]
    pub payment: String,
    /// Those of the stock role.
    #[serde(serialize_with = "super::secret::shown")]
    pub stock: String,
    /// Those of the notify role.
    #[serde(serialize_with = "super::secret::shown")]
    pub notify: String,
    /// API key to send; empty for none.
    #[serde(serialize_with = "super::secret::masked")]
    pub key: SecretString,
}

impl Client {
    /// Where `serve all` listens by default.
    pub const DEFAULT_URL: &'static str = "http://127.0.0.1:8080";

    /// The URLs of a role, or the default when there are none; never with a slash at the end.
    #[must_use]
    pub fn bases(urls: &str) -> Vec<&str> {
        let parts = urls.split(',').map(|url| url.trim().trim_end_matches('/'));
        let bases: Vec<&str> = parts.filter(|url| !url.is_empty()).collect();
        if bases.is_empty() { vec![Self::DEFAULT_URL] } else { bases }
    }
}

/// An address, or `""` for none.
mod maybe_addr {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(addr: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match addr {
            Some(addr) => serializer.collect_str(addr),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| de::Error::custom("neither an address like \"127.0.0.1:8085\" nor \"\""))
    }
}
