//! What operators are told, and when more instances are wanted.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::Millis;

/// Where alerts go, besides the log.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// `http(s)://` URL that each alert is posted to; empty for none. Whole a secret: such URLs carry tokens.
    #[serde(serialize_with = "super::secret::masked")]
    pub webhook: SecretString,
    /// Signs the calls (HMAC-SHA256); empty: they are not signed.
    #[serde(serialize_with = "super::secret::masked")]
    pub secret: SecretString,
}

impl Alerts {
    /// The webhook, if there is one.
    #[must_use]
    pub fn webhook(&self) -> Option<&str> {
        Some(self.webhook.expose_secret()).filter(|url| !url.is_empty())
    }
}

/// `ruyi worker backlog`, and `GET /scale`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backlog {
    /// Time between two readings.
    pub interval: Millis,
    /// While a group stays over its threshold, it is told again after this.
    pub repeat: Millis,
    /// Groups to read; empty: those of ruyi.
    pub watch: Vec<String>,
    /// URL that the scale hook posts to; empty for none.
    #[serde(serialize_with = "super::secret::shown")]
    pub hook_url: String,
    /// Program and arguments of the scale hook; empty for none.
    pub hook_command: Vec<String>,
    /// How long a hook may take.
    pub hook_timeout: Millis,
    /// Settings per group, over those of `default`.
    pub groups: BTreeMap<String, BacklogOverride>,
}

/// What a group may set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BacklogOverride {
    /// Messages that a group may have before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<i64>,
    /// Messages of a backlog for which one instance is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_replica: Option<i64>,
    /// Instances that are asked for at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i64>,
}

/// The effective settings of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Messages that a group may have before it.
    pub threshold: i64,
    /// Messages of a backlog for which one instance is enough, at least 1.
    pub per_replica: i64,
    /// Instances that are asked for at most, at least 1.
    pub max_replicas: i64,
}

impl Backlog {
    /// The settings of a group: its own where it has them, else those of `default`.
    #[must_use]
    pub fn limit(&self, group: &str) -> Limit {
        let pick = |get: fn(&BacklogOverride) -> Option<i64>| {
            [group, "default"].into_iter().find_map(|name| self.groups.get(name).and_then(get)).unwrap_or(1)
        };
        Limit {
            threshold: pick(|one| one.threshold),
            per_replica: pick(|one| one.per_replica),
            max_replicas: pick(|one| one.max_replicas),
        }
    }
}
