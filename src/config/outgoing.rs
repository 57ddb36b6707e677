//! Outgoing calls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Millis;

/// Outgoing calls.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Calls at once.
    pub concurrency: usize,
    /// Calls at once to one target.
    pub per_target: usize,
    /// One call.
    pub timeout: Millis,
    /// Waits before each retry; after the last one the delivery has failed.
    pub schedule: Vec<Millis>,
    /// Random share of a wait, 0 to 1.
    pub jitter: f64,
    /// How long a claim holds.
    pub lease: Millis,
    /// A call that waited this long for a target that is left alone is given up.
    pub give_up_after: Millis,
    /// Allow targets on private, loopback and link-local addresses.
    pub allow_private: bool,
    /// When a target is left alone.
    pub breaker: Breaker,
    /// Settings per kind of call, over those above.
    pub kinds: BTreeMap<String, DeliveryKind>,
}

/// When a target that fails is left alone.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failed calls in a row; 0: never.
    pub failures: u32,
    /// For how long; then one call tries it.
    pub open_for: Millis,
}

/// What a kind of call may set.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryKind {
    /// Waits before each retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<Millis>>,
    /// One call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
}
