//! `merchant`, the notify role's, and `merchant_account`, what the payment role knows of it.

use std::collections::HashMap;

use secrecy::{ExposeSecret, SecretString};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Columns, Val};
use super::tx::Draft;
use super::{DbError, Dialect, Tx};
use crate::domain::event::{Kind, MerchantChanged};
use crate::domain::id::MerchantId;
use crate::domain::merchant::Accept;
use crate::vals;

/// What a merchant is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Name for people.
    pub name: String,
    /// Tenant; empty for none.
    pub tenant_id: String,
    /// Where it is told what became of its payments; empty for nowhere.
    pub notify_url: String,
    /// May open payments, and is told.
    pub active: bool,
    /// Which payments it may open at the gateway.
    pub accepts: Vec<Accept>,
}

/// A merchant.
#[derive(Clone, Debug)]
pub struct Merchant {
    /// Id.
    pub id: i64,
    /// What it is.
    pub profile: Profile,
    /// Signs what it is told.
    pub secret: SecretString,
    /// The ones before, the newest first.
    pub old: Vec<OldSecret>,
    /// Rises with each change of the profile.
    pub version: i64,
    /// Epoch ms.
    pub created_at: i64,
    /// Epoch ms.
    pub updated_at: i64,
}

/// A secret that was replaced.
#[derive(Clone, Debug)]
pub struct OldSecret {
    /// It signs as well ...
    pub secret: SecretString,
    /// ... before this, epoch ms.
    pub until: i64,
}

impl Merchant {
    /// What signs at `now_ms`: the newest first, never none.
    #[must_use]
    pub fn secrets(&self, now_ms: i64) -> Vec<SecretString> {
        let old = self.old_at(now_ms).map(|old| &old.secret);
        [&self.secret].into_iter().chain(old).cloned().collect()
    }

    /// The old ones that still sign at `now_ms`.
    pub fn old_at(&self, now_ms: i64) -> impl Iterator<Item = &OldSecret> {
        self.old.iter().filter(move |old| now_ms < old.until)
    }

    /// MERCHANT_CHANGED.
    #[must_use]
    pub fn changed(&self) -> MerchantChanged {
        let Profile { tenant_id, notify_url, active, accepts, .. } = self.profile.clone();
        MerchantChanged {
            merchant_id: MerchantId(self.id),
            version: self.version,
            active,
            tenant_id,
            notify_url,
            accepts,
        }
    }
}

const COLUMNS: &str = "id, name, tenant_id, notify_url, active, accepts, secret, old_secret, old_until, version, \
    created_at, updated_at, older_secrets";

fn accepts_of(text: &str, table: &'static str, id: i64) -> Result<Vec<Accept>, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Row { table, key: id.to_string(), what: error.to_string() })
}

fn from_row(row: &AnyRow) -> Result<Merchant, DbError> {
    let id = row.int(0)?;
    Ok(Merchant {
        id,
        profile: Profile {
            name: row.text(1)?,
            tenant_id: row.text(2)?,
            notify_url: row.text(3)?,
            active: row.int(4)? != 0,
            accepts: accepts_of(&row.text(5)?, "merchant", id)?,
        },
        secret: row.text(6)?.into(),
        old: old_of(row, id)?,
        version: row.int(9)?,
        created_at: row.int(10)?,
        updated_at: row.int(11)?,
    })
}

/// The newest of the old ones stands in columns of its own, where processes of before look for it.
fn old_of(row: &AnyRow, id: i64) -> Result<Vec<OldSecret>, DbError> {
    let mut old = Vec::new();
    if let Some(secret) = row.maybe_text(7)? {
        old.push(OldSecret { secret: secret.into(), until: row.int(8)? });
    }
    let older = row.text(12)?;
    if older.is_empty() {
        return Ok(old);
    }
    let older: Vec<(String, i64)> = serde_json::from_str(&older).map_err(|error| DbError::Row {
        table: "merchant",
        key: id.to_string(),
        what: format!("older_secrets: {error}"),
    })?;
    old.extend(older.into_iter().map(|(secret, until)| OldSecret { secret: secret.into(), until }));
    Ok(old)
}

fn older_text(older: &[OldSecret]) -> Result<String, DbError> {
    if older.is_empty() {
        return Ok(String::new());
    }
    let pairs: Vec<(&str, i64)> = older.iter().map(|old| (old.secret.expose_secret(), old.until)).collect();
    Ok(serde_json::to_string(&pairs)?)
}

/// Merchants by id; those that do not exist are missing.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<HashMap<i64, Merchant>, DbError> {
    by_id(conn, ids, "").await
}

/// Merchants by id, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, Merchant>, DbError> {
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    by_id(tx, ids, &after).await
}

async fn by_id(conn: &mut AnyConnection, mut ids: Vec<i64>, after: &str) -> Result<HashMap<i64, Merchant>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = format!("SELECT {COLUMNS} FROM merchant WHERE id");
    let rows = sql::select_in(conn, &before, after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| from_row(row).map(|merchant| (merchant.id, merchant))).collect()
}

/// Up to `limit` merchants after this id, in the order of ids.
///
/// # Errors
/// The database's.
pub async fn page(conn: &mut AnyConnection, after: i64, limit: i64) -> Result<Vec<Merchant>, DbError> {
    let text = format!("SELECT {COLUMNS} FROM merchant WHERE id > ? ORDER BY id LIMIT ?");
    sql::fetch(conn, text, vals![after, limit]).await?.iter().map(from_row).collect()
}

/// Who is told at an address, two of them at most: binds the address.
pub(super) const WITH_URL: &str = "SELECT id FROM merchant WHERE notify_url = ? ORDER BY id LIMIT 2";

/// The merchants that are told at this address; of several only two.
///
/// # Errors
/// The database's.
pub async fn with_url(conn: &mut AnyConnection, url: &str) -> Result<Vec<i64>, DbError> {
    let rows = sql::fetch(conn, WITH_URL, vals![url]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Writes a merchant, whether it was there or not; an existing one was locked in this transaction.
///
/// # Errors
/// The database's.
pub async fn put(tx: &mut Tx, merchant: &Merchant) -> Result<(), DbError> {
    let Merchant { profile, old, .. } = merchant;
    let newest = old.first();
    let row = vals![
        merchant.id,
        &profile.name,
        &profile.tenant_id,
        &profile.notify_url,
        profile.active,
        serde_json::to_string(&profile.accepts)?,
        merchant.secret.expose_secret(),
        newest.map(|old| old.secret.expose_secret().to_owned()),
        newest.map_or(0, |old| old.until),
        merchant.version,
        merchant.created_at,
        merchant.updated_at,
        older_text(old.get(1..).unwrap_or_default())?,
    ];
    let set = [
        "name",
        "tenant_id",
        "notify_url",
        "active",
        "accepts",
        "secret",
        "old_secret",
        "old_until",
        "version",
        "updated_at",
        "older_secrets",
    ];
    let tail = Dialect::of(tx).on_conflict("id", &set, &[]);
    sql::insert(tx, &format!("INSERT INTO merchant ({COLUMNS})"), vec![row], &tail).await.map(|_| ())
}

/// Tells the payment role of a merchant: MERCHANT_CHANGED of the version that it has now.
///
/// # Errors
/// As [`Tx::emit`].
pub fn tell(tx: &mut Tx, merchant: &Merchant) -> Result<(), DbError> {
    let (body, version) = (merchant.changed(), merchant.version.to_string());
    let draft = Draft::new(Kind::MerchantChanged, merchant.id, &body, None);
    tx.emit(&Draft { discriminator: &version, ..draft })
}

/// What the payment role knows of merchants, locked until the commit.
///
/// # Errors
/// The database's.
pub async fn lock_accounts(tx: &mut Tx, ids: Vec<i64>) -> Result<HashMap<i64, MerchantChanged>, DbError> {
    let lock = tx.dialect().for_update();
    accounts_of(tx, ids, &format!(" ORDER BY merchant_id{lock}")).await
}

/// What the payment role knows of merchants.
///
/// # Errors
/// The database's.
pub async fn accounts(conn: &mut AnyConnection, ids: Vec<i64>) -> Result<HashMap<i64, MerchantChanged>, DbError> {
    accounts_of(conn, ids, "").await
}

async fn accounts_of(
    conn: &mut AnyConnection,
    mut ids: Vec<i64>,
    after: &str,
) -> Result<HashMap<i64, MerchantChanged>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = "SELECT merchant_id, version, active, tenant_id, notify_url, accepts FROM merchant_account \
                  WHERE merchant_id";
    let rows = sql::select_in(conn, before, after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    let account = |row: &AnyRow| -> Result<(i64, MerchantChanged), DbError> {
        let id = row.int(0)?;
        let known = MerchantChanged {
            merchant_id: MerchantId(id),
            version: row.int(1)?,
            active: row.int(2)? != 0,
            tenant_id: row.text(3)?,
            notify_url: row.text(4)?,
            accepts: accepts_of(&row.text(5)?, "merchant_account", id)?,
        };
        Ok((id, known))
    };
    rows.iter().map(account).collect()
}

/// Writes what the payment role is to know, each merchant once.
///
/// # Errors
/// The database's.
pub async fn put_accounts(tx: &mut Tx, accounts: &[&MerchantChanged]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let mut rows = Vec::with_capacity(accounts.len());
    for account in accounts {
        rows.push(vals![
            account.merchant_id.0,
            account.version,
            account.active,
            &account.tenant_id,
            &account.notify_url,
            serde_json::to_string(&account.accepts)?,
            now_ms,
        ]);
    }
    let head =
        "INSERT INTO merchant_account (merchant_id, version, active, tenant_id, notify_url, accepts, updated_at)";
    let set = ["version", "active", "tenant_id", "notify_url", "accepts", "updated_at"];
    let tail = Dialect::of(tx).on_conflict("merchant_id", &set, &[]);
    sql::insert(tx, head, rows, &tail).await.map(|_| ())
}
