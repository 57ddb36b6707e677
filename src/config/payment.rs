//! Payments, their channels, and their statistics.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{Millis, secret};

/// The payment role.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// How a successful payment is published.
    pub publish: PublishVia,
    /// Largest difference between the time in a callback and ours.
    pub callback_tolerance: Millis,
    /// How long after a submission a channel that has not called back is asked; zero: never.
    pub query_after: Millis,
    /// Payment channels by id.
    pub channels: BTreeMap<String, Channel>,
    /// Those that are configured, and that a process does not have.
    #[serde(skip)]
    pub left_out: LeftOut,
}

/// Sandbox channels that are configured and yet not there, and the settings that would have them.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(BTreeMap<String, String>);

impl LeftOut {
    /// What would have a sandbox channel that is not there.
    #[must_use]
    pub fn hint(&self, id: &str) -> Option<String> {
        let settings = self.0.get(id)?;
        Some(format!("the channel {id:?} is a sandbox, which takes payments here only with {settings}"))
    }

    /// Why a channel is not there.
    #[must_use]
    pub fn why(&self, id: &str) -> String {
        self.hint(id).unwrap_or_else(|| format!("the channel {id:?} is not configured here"))
    }
}

impl Payment {
    /// There is a channel that takes money.
    #[must_use]
    pub fn has_real_channel(&self) -> bool {
        self.channels.values().any(|channel| channel.kind != ChannelKind::Sandbox)
    }

    /// Takes the sandboxes of the process itself out, which need these settings.
    pub(super) fn leave_out_sandboxes(&mut self, settings: &str) {
        let own = self.channels.iter().filter(|(_, channel)| channel.is_own_sandbox());
        self.left_out.0.extend(own.map(|(id, _)| (id.clone(), settings.to_owned())));
        self.channels.retain(|_, channel| !channel.is_own_sandbox());
    }

    /// The channel of an order that names none: a sandbox, and only while there is no other kind of channel.
    #[must_use]
    pub fn default_channel(&self) -> Option<&str> {
        if self.has_real_channel() {
            return None;
        }
        let named = self.channels.keys().find(|id| *id == ChannelKind::Sandbox.name());
        named.or_else(|| self.channels.keys().next()).map(String::as_str)
    }

    /// The channel of an order from another system that names none: such a system has one, so it is the only one that is no
    /// sandbox; where there is none at all, the default.
    #[must_use]
    pub fn only_channel(&self) -> Option<&str> {
        let mut real = self.channels.iter().filter(|(_, channel)| channel.kind != ChannelKind::Sandbox);
        match (real.next(), real.next()) {
            (None, _) => self.default_channel(),
            (Some((only, _)), None) => Some(only),
            _ => None,
        }
    }
}

/// How an event leaves its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishVia {
    /// A row in the same transaction.
    Outbox,
    /// A RocketMQ transaction message.
    Transaction,
}

/// One payment channel.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Which protocol it speaks.
    pub kind: ChannelKind,
    /// Key of its HMAC-SHA256 signatures.
    #[serde(serialize_with = "secret::masked")]
    pub secret: SecretString,
    /// The key before it: its callbacks are taken as well; empty for none.
    #[serde(default, serialize_with = "secret::masked")]
    pub old_secret: SecretString,
    /// Base URL; empty is the sandbox of this process.
    #[serde(default)]
    #[serde(serialize_with = "super::secret::shown")]
    pub endpoint: String,
    /// When a payment is submitted to it.
    #[serde(default)]
    pub submit: SubmitWhen,
}

/// Protocols of payment channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// ruyi's own stand-in.
    Sandbox,
    /// Any service that speaks the protocol of the stand-in: signed JSON over HTTP, both ways.
    Http,
}

impl ChannelKind {
    /// As in the configuration, and as `plugin_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Http => "http",
        }
    }
}

/// When a payment is submitted to its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubmitWhen {
    /// When the customer pays.
    #[default]
    OnPay,
    /// As soon as the payment is opened.
    OnOpen,
}

impl Channel {
    /// It is the stand-in of the process itself.
    #[must_use]
    pub fn is_own_sandbox(&self) -> bool {
        self.kind == ChannelKind::Sandbox && self.endpoint.is_empty()
    }

    /// Where it takes `what` ("pay", "refund", "query"); a path is the stand-in of the process itself. None where
    /// nothing says where it is: the stand-in plays no other channel.
    #[must_use]
    pub fn url(&self, what: &str) -> Option<String> {
        match self.endpoint.trim_end_matches('/') {
            "" => self.is_own_sandbox().then(|| format!("/sandbox/channel/{what}")),
            endpoint => Some(format!("{endpoint}/{what}")),
        }
    }

    /// The keys that its callbacks may be signed with.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        let old = Some(&self.old_secret).filter(|secret| !secret.expose_secret().is_empty());
        [&self.secret].into_iter().chain(old)
    }
}

/// Counting payments by day.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// IANA name of the time zone in which a day begins.
    pub time_zone: String,
}

impl Statistics {
    /// The time zone; UTC where its name is none (which the configuration refuses).
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        self.known_zone().unwrap_or(TimeZone::UTC)
    }

    pub(super) fn known_zone(&self) -> Option<TimeZone> {
        TimeZone::get(&self.time_zone).ok()
    }
}
