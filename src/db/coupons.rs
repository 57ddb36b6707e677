//! `coupon_template` and `coupon`.

use std::collections::HashMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::sql::{self, Column, Columns, Val};
use super::{DbError, Dialect, Tx};
use crate::domain::coupon::{Held, Kind, State, Terms};
use crate::domain::money::Money;
use crate::vals;

/// Coupons that may be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Name for programs.
    pub template: String,
    /// Name for people.
    pub name: String,
    /// What they take off.
    pub terms: Terms,
    /// How many there are in all.
    pub stock: i64,
    /// How many one user may get.
    pub per_user: i64,
    /// Usable from, epoch ms.
    pub valid_from: i64,
    /// Usable before, epoch ms.
    pub valid_until: i64,
    /// May be issued.
    pub active: bool,
    /// How many were issued; [`put`] leaves it alone.
    pub issued: i64,
}

/// A coupon that a user holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponRow {
    /// Id.
    pub id: i64,
    /// Template that it was issued from.
    pub template: String,
    /// Who holds it.
    pub user_id: i64,
    /// Terms, as they were when it was issued, and state.
    pub held: Held,
    /// When it was issued, epoch ms.
    pub created_at: i64,
    /// When it last changed, epoch ms.
    pub updated_at: i64,
}

/// What became of a wish for a coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issued {
    /// It was issued now.
    New(CouponRow),
    /// It was issued by an earlier request with the same key.
    Replayed(CouponRow),
    /// There is no such template.
    Unknown,
    /// The template is not active, or its time is over.
    Closed,
    /// All are issued.
    OutOfStock,
    /// The user has as many as one may get.
    UserLimit,
}

const TERMS: &str = "kind, amount_off, basis_points, max_off, min_amount, valid_from, valid_until";
const TEMPLATE: &str = "template, name, stock, per_user, active, issued";
const COUPON: &str = "id, template, user_id, state, order_id, created_at, updated_at";

/// The columns of [`TERMS`] from `at` on, and the times after them.
fn terms(row: &AnyRow, at: usize, table: &'static str) -> Result<(Terms, i64, i64), DbError> {
    let broken = |what: String| DbError::Row { table, key: row.text(1).unwrap_or_default(), what };
    let money = |minor| Money::from_minor(minor).map_err(|error| broken(error.to_string()));
    let code = row.int(at)?;
    let terms = Terms {
        kind: Kind::from_code(code).ok_or_else(|| broken(format!("unknown kind {code}")))?,
        amount_off: money(row.int(at + 1)?)?,
        basis_points: row.int(at + 2)?,
        max_off: row.maybe_int(at + 3)?.map(money).transpose()?,
        min_amount: money(row.int(at + 4)?)?,
    };
    Ok((terms, row.int(at + 5)?, row.int(at + 6)?))
}

fn template_of(row: &AnyRow) -> Result<Template, DbError> {
    let (terms, valid_from, valid_until) = terms(row, 6, "coupon_template")?;
    Ok(Template {
        template: row.text(0)?,
        name: row.text(1)?,
        terms,
        stock: row.int(2)?,
        per_user: row.int(3)?,
        valid_from,
        valid_until,
        active: row.int(4)? != 0,
        issued: row.int(5)?,
    })
}

fn coupon_of(row: &AnyRow) -> Result<CouponRow, DbError> {
    let (terms, valid_from, valid_until) = terms(row, 7, "coupon")?;
    let (id, code) = (row.int(0)?, row.int(3)?);
    let what = || format!("unknown state {code}");
    let state =
        State::from_code(code).ok_or_else(|| DbError::Row { table: "coupon", key: id.to_string(), what: what() })?;
    Ok(CouponRow {
        id,
        template: row.text(1)?,
        user_id: row.int(2)?,
        held: Held { state, order_id: row.maybe_int(4)?, terms, valid_from, valid_until },
        created_at: row.int(5)?,
        updated_at: row.int(6)?,
    })
}

/// A template.
///
/// # Errors
/// The database's.
pub async fn template(conn: &mut AnyConnection, name: &str) -> Result<Option<Template>, DbError> {
    let text = format!("SELECT {TEMPLATE}, {TERMS} FROM coupon_template WHERE template = ?");
    sql::fetch_one(conn, text, vals![name]).await?.as_ref().map(template_of).transpose()
}

/// A template, locked until the commit: who issues of it waits.
async fn lock_template(tx: &mut Tx, name: &str) -> Result<Option<Template>, DbError> {
    let lock = tx.dialect().for_update();
    let text = format!("SELECT {TEMPLATE}, {TERMS} FROM coupon_template WHERE template = ?{lock}");
    sql::fetch_one(tx, text, vals![name]).await?.as_ref().map(template_of).transpose()
}

/// Creates or changes a template; coupons that were issued keep their terms. The template as it is now, or how many were
/// issued already when that is more than the new stock.
///
/// # Errors
/// The database's.
pub async fn put(tx: &mut Tx, wanted: &Template) -> Result<Result<Template, i64>, DbError> {
    let issued = lock_template(tx, &wanted.template).await?.map_or(0, |known| known.issued);
    if issued > wanted.stock {
        return Ok(Err(issued));
    }
    let (terms, now_ms) = (&wanted.terms, tx.now_ms());
    let row = vals![
        &wanted.template,
        &wanted.name,
        terms.kind.code(),
        terms.amount_off.minor(),
        terms.basis_points,
        terms.max_off.map(Money::minor),
        terms.min_amount.minor(),
        wanted.stock,
        0_i64,
        wanted.per_user,
        wanted.valid_from,
        wanted.valid_until,
        wanted.active,
        1_i64,
        now_ms,
    ];
    let head = "INSERT INTO coupon_template (template, name, kind, amount_off, basis_points, max_off, min_amount, \
                stock, issued, per_user, valid_from, valid_until, active, version, updated_at)";
    let set = [
        "name",
        "kind",
        "amount_off",
        "basis_points",
        "max_off",
        "min_amount",
        "stock",
        "per_user",
        "valid_from",
        "valid_until",
        "active",
        "updated_at",
    ];
    let tail = Dialect::of(tx).on_conflict("template", &set, &["version"]);
    sql::insert(tx, head, vec![row], &tail).await?;
    // Another first one may have come in between: what counts is what is there.
    Ok(lock_template(tx, &wanted.template).await?.ok_or(issued))
}

/// Gives a user a coupon. Who issues of a template does so one after the other, so that neither its stock nor a user's
/// limit is exceeded.
///
/// # Errors
/// The database's.
pub async fn issue(tx: &mut Tx, name: &str, user_id: i64, key: Option<&str>) -> Result<Issued, DbError> {
    let Some(template) = lock_template(tx, name).await? else { return Ok(Issued::Unknown) };
    let key = key.map(|key| format!("{name}:{user_id}:{key}"));
    if let Some(key) = &key {
        let text = format!("SELECT {COUPON}, {TERMS} FROM coupon WHERE issue_key = ?");
        if let Some(row) = sql::fetch_one(tx, text, vals![key]).await? {
            return coupon_of(&row).map(Issued::Replayed);
        }
    }
    let now_ms = tx.now_ms();
    if !template.active || template.valid_until <= now_ms {
        return Ok(Issued::Closed);
    }
    if template.issued >= template.stock {
        return Ok(Issued::OutOfStock);
    }
    let text = "SELECT COUNT(*) FROM coupon WHERE template = ? AND user_id = ?";
    let has = sql::fetch_one(tx, text, vals![name, user_id]).await?.map_or(Ok(0), |row| row.int(0))?;
    if has >= template.per_user {
        return Ok(Issued::UserLimit);
    }
    let text = "UPDATE coupon_template SET issued = issued + 1 WHERE template = ? AND issued < stock";
    if sql::execute(tx, text, vals![name]).await? == 0 {
        return Ok(Issued::OutOfStock);
    }
    let Template { terms, valid_from, valid_until, .. } = template;
    let held = Held { state: State::Free, order_id: None, terms, valid_from, valid_until };
    let id = tx.next_id();
    let coupon = CouponRow { id, template: name.to_owned(), user_id, held, created_at: now_ms, updated_at: now_ms };
    insert(tx, &coupon, key).await?;
    Ok(Issued::New(coupon))
}

async fn insert(conn: &mut AnyConnection, coupon: &CouponRow, key: Option<String>) -> Result<(), DbError> {
    let Held { state, terms, valid_from, valid_until, .. } = coupon.held;
    let row = vals![
        coupon.id,
        &coupon.template,
        coupon.user_id,
        state.code(),
        terms.kind.code(),
        terms.amount_off.minor(),
        terms.basis_points,
        terms.max_off.map(Money::minor),
        terms.min_amount.minor(),
        valid_from,
        valid_until,
        key,
        1_i64,
        coupon.created_at,
        coupon.updated_at,
    ];
    let head = "INSERT INTO coupon (id, template, user_id, state, kind, amount_off, basis_points, max_off, min_amount, \
                valid_from, valid_until, issue_key, version, created_at, updated_at)";
    sql::insert(conn, head, vec![row], "").await.map(|_| ())
}

/// Reads coupons and keeps others from changing them until the commit; those that do not exist are missing. `ids` may
/// repeat; locked in id order.
///
/// # Errors
/// The database's.
pub async fn lock(tx: &mut Tx, mut ids: Vec<i64>) -> Result<HashMap<i64, CouponRow>, DbError> {
    ids.sort_unstable();
    ids.dedup();
    let before = format!("SELECT {COUPON}, {TERMS} FROM coupon WHERE id");
    let after = format!(" ORDER BY id{}", tx.dialect().for_update());
    let rows = sql::select_in(tx, &before, &after, &[], ids.into_iter().map(Val::Int).collect()).await?;
    rows.iter().map(|row| coupon_of(row).map(|coupon| (coupon.id, coupon))).collect()
}

/// Writes changed coupons back. They were read with [`lock`] in this transaction: nobody else can have changed them.
///
/// # Errors
/// The database's.
pub async fn update(tx: &mut Tx, coupons: &[&CouponRow]) -> Result<(), DbError> {
    let now_ms = tx.now_ms();
    let row = |coupon: &&CouponRow| vals![coupon.id, coupon.held.state.code(), coupon.held.order_id, 1_i64, now_ms];
    let columns = [Column::Set("state"), Column::Set("order_id"), Column::Add("version"), Column::Set("updated_at")];
    sql::update(tx, "coupon", "id", &columns, coupons.iter().map(row).collect()).await
}

/// One coupon.
///
/// # Errors
/// The database's.
pub async fn get(conn: &mut AnyConnection, id: i64) -> Result<Option<CouponRow>, DbError> {
    let text = format!("SELECT {COUPON}, {TERMS} FROM coupon WHERE id = ?");
    sql::fetch_one(conn, text, vals![id]).await?.as_ref().map(coupon_of).transpose()
}

/// Makes the number of issued coupons of a template that of the rows; (before, after) where they differed.
///
/// # Errors
/// The database's.
pub async fn recount(tx: &mut Tx, name: &str) -> Result<Option<(i64, i64)>, DbError> {
    let Some(template) = lock_template(tx, name).await? else { return Ok(None) };
    let text = "SELECT COUNT(*) FROM coupon WHERE template = ?";
    let after = sql::fetch_one(tx, text, vals![name]).await?.map_or(Ok(0), |row| row.int(0))?;
    if after == template.issued {
        return Ok(None);
    }
    sql::execute(tx, "UPDATE coupon_template SET issued = ? WHERE template = ?", vals![after, name]).await?;
    Ok(Some((template.issued, after)))
}

/// Coupons of a user that are older than `before`, newest first.
///
/// # Errors
/// The database's.
pub async fn of_user(
    conn: &mut AnyConnection,
    user_id: i64,
    before: i64,
    limit: i64,
) -> Result<Vec<CouponRow>, DbError> {
    let text = format!("SELECT {COUPON}, {TERMS} FROM coupon WHERE user_id = ? AND id < ? ORDER BY id DESC LIMIT ?");
    sql::fetch(conn, text, vals![user_id, before, limit]).await?.iter().map(coupon_of).collect()
}
