//! What roles keep of the rows of others, and these rows themselves.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{ints, texts};
use crate::db::DbError;
use crate::db::merchants::Merchant;
use crate::db::sql::{self, Columns};
use crate::db::stock::Stocked;
use crate::domain::merchant::Accept;
use crate::domain::stock::Level;
use crate::vals;

/// The next `limit` SKUs after `after` that the order role was told of.
///
/// # Errors
/// The database's.
pub async fn copied_skus(conn: &mut AnyConnection, after: &str, limit: i64) -> Result<Vec<String>, DbError> {
    let text = "SELECT sku FROM sku_availability WHERE sku > ? AND version >= 0 ORDER BY sku LIMIT ?";
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(|row| row.text(0)).collect()
}

/// What the order role was told of SKUs; those of which it was told nothing are missing.
///
/// # Errors
/// The database's.
pub async fn sku_copies(conn: &mut AnyConnection, skus: &[String]) -> Result<BTreeMap<String, Stocked>, DbError> {
    let before = "SELECT sku, available, frozen, sold, version FROM sku_availability WHERE version >= 0 AND sku";
    let copy = |row: &AnyRow| {
        let level = Level { available: row.int(1)?, frozen: row.int(2)?, sold: row.int(3)? };
        Ok((row.text(0)?, Stocked { level, version: row.int(4)? }))
    };
    sql::select_in(conn, before, "", &[], texts(skus)).await?.iter().map(copy).collect()
}

/// What MERCHANT_CHANGED tells of a merchant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerchantFact {
    /// Grows with each change.
    pub version: i64,
    /// May open payments, and is told.
    pub active: bool,
    /// Tenant; empty for none.
    pub tenant_id: String,
    /// Where it is told; empty for nowhere.
    pub notify_url: String,
    /// Which payments it may open; the text itself where it cannot be read.
    pub accepts: Result<Vec<Accept>, String>,
}

impl MerchantFact {
    /// What the two do not say alike, by the names of the API, whatever their versions are.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("active", self.active == other.active),
            ("tenantId", self.tenant_id == other.tenant_id),
            ("notifyUrl", self.notify_url == other.notify_url),
            ("accepts", self.accepts == other.accepts),
        ];
        fields.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

impl From<&Merchant> for MerchantFact {
    fn from(merchant: &Merchant) -> Self {
        let profile = merchant.profile.clone();
        Self {
            version: merchant.version,
            active: profile.active,
            tenant_id: profile.tenant_id,
            notify_url: profile.notify_url,
            accepts: Ok(profile.accepts),
        }
    }
}

/// Merchants by id, as the notify role has them.
///
/// # Errors
/// The database's.
pub async fn merchants(conn: &mut AnyConnection, ids: &[i64]) -> Result<BTreeMap<i64, MerchantFact>, DbError> {
    let before = "SELECT id, version, active, tenant_id, notify_url, accepts FROM merchant WHERE id";
    sql::select_in(conn, before, "", &[], ints(ids)).await?.iter().map(merchant).collect()
}

/// Merchants by id, as the payment role was told of them.
///
/// # Errors
/// The database's.
pub async fn merchant_copies(conn: &mut AnyConnection, ids: &[i64]) -> Result<BTreeMap<i64, MerchantFact>, DbError> {
    let before = "SELECT merchant_id, version, active, tenant_id, notify_url, accepts FROM merchant_account \
                  WHERE merchant_id";
    sql::select_in(conn, before, "", &[], ints(ids)).await?.iter().map(merchant).collect()
}

fn merchant(row: &AnyRow) -> Result<(i64, MerchantFact), DbError> {
    let text = row.text(5)?;
    let fact = MerchantFact {
        version: row.int(1)?,
        active: row.int(2)? != 0,
        tenant_id: row.text(3)?,
        notify_url: row.text(4)?,
        accepts: serde_json::from_str(&text).map_err(|_| text),
    };
    Ok((row.int(0)?, fact))
}
