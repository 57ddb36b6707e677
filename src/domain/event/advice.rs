//! Events that are worth something for a moment only: what comes of them is decided elsewhere.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `INVENTORY_SYNC`; the key is the SKU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InventorySync {
    /// SKU.
    pub sku: String,
    /// May be sold.
    pub available: i64,
    /// Held for orders that are not paid yet.
    pub frozen: i64,
    /// Paid for.
    pub sold: i64,
    /// Grows with each change of the SKU.
    pub version: i64,
}

/// What is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// An order; the key is its id.
    Order,
    /// The level of a SKU; the key is the SKU.
    Stock,
}

impl CacheKind {
    /// As in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Stock => "stock",
        }
    }
}

/// Body of `CACHE_INVALIDATE`: what was read of this before that version is out of date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheInvalidate {
    /// What kind of thing.
    pub kind: CacheKind,
    /// Which.
    pub key: String,
    /// Its version now.
    pub version: i64,
}
