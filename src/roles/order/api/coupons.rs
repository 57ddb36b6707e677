//! Coupons: templates, and what users hold.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::State;
use crate::db::coupons::{self, CouponRow, Issued, Template};
use crate::domain::coupon::{Kind, Refused, TemplateName, Terms};
use crate::domain::id::{CouponId, OrderId, UserId};
use crate::domain::money::Money;
use crate::domain::time::epoch_ms;
use crate::http::{ApiJson, Problem};
use crate::roles::reply::{self, from_db};

/// Coupons of one page at most.
const PAGE: i64 = 100;
/// How many a template may have.
const MOST: i64 = 1_000_000_000;

/// How a coupon reduces an order.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum KindName {
    /// By amountOff.
    Amount,
    /// By basisPoints of the total, rounded down to 0.01, by maxOff at most.
    Percent,
    /// By amountOff, from minAmount on.
    Threshold,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Amount => Self::Amount,
            KindName::Percent => Self::Percent,
            KindName::Threshold => Self::Threshold,
        }
    }
}

/// A template as it is to be. Coupons that were issued before keep their terms.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TemplateBody {
    /// Name for people, 1 to 200 characters.
    name: String,
    /// AMOUNT, PERCENT or THRESHOLD.
    kind: KindName,
    /// Amount and threshold: what comes off.
    #[serde(default)]
    #[schema(value_type = f64, example = 5)]
    amount_off: Money,
    /// Percent: hundredths of a percent that come off, 1 to 10000.
    #[serde(default)]
    basis_points: i64,
    /// Percent: not more than this comes off.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    max_off: Option<Money>,
    /// Only from orders of at least this.
    #[serde(default)]
    #[schema(value_type = f64)]
    min_amount: Money,
    /// How many there are in all, 1 to 1000000000; not fewer than were issued.
    stock: i64,
    /// How many one user may get.
    #[serde(default = "one")]
    per_user: i64,
    /// Usable from, epoch ms.
    #[serde(default, deserialize_with = "epoch_ms")]
    #[schema(value_type = i64)]
    valid_from: i64,
    /// Usable before, epoch ms.
    #[serde(deserialize_with = "epoch_ms")]
    #[schema(value_type = i64)]
    valid_until: i64,
    /// May be issued.
    #[serde(default = "yes")]
    active: bool,
}

fn one() -> i64 {
    1
}

fn yes() -> bool {
    true
}

/// What a coupon takes off.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TermsView {
    /// AMOUNT, PERCENT or THRESHOLD.
    kind: &'static str,
    /// Amount and threshold: what comes off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    amount_off: Option<Money>,
    /// Percent: hundredths of a percent that come off.
    #[serde(skip_serializing_if = "Option::is_none")]
    basis_points: Option<i64>,
    /// Percent: not more than this comes off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    max_off: Option<Money>,
    /// Only from orders of at least this.
    #[schema(value_type = f64)]
    min_amount: Money,
}

impl From<Terms> for TermsView {
    fn from(terms: Terms) -> Self {
        let percent = terms.kind == Kind::Percent;
        Self {
            kind: terms.kind.name(),
            amount_off: (!percent).then_some(terms.amount_off),
            basis_points: percent.then_some(terms.basis_points),
            max_off: terms.max_off,
            min_amount: terms.min_amount,
        }
    }
}

/// A template.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TemplateView {
    /// Its name for programs.
    template: String,
    /// Name for people.
    name: String,
    /// What its coupons take off.
    #[serde(flatten)]
    terms: TermsView,
    /// How many there are in all.
    stock: i64,
    /// How many were issued.
    issued: i64,
    /// How many one user may get.
    per_user: i64,
    /// Usable from, epoch ms.
    valid_from: i64,
    /// Usable before, epoch ms.
    valid_until: i64,
    /// May be issued.
    active: bool,
}

impl From<Template> for TemplateView {
    fn from(template: Template) -> Self {
        Self {
            template: template.template,
            name: template.name,
            terms: template.terms.into(),
            stock: template.stock,
            issued: template.issued,
            per_user: template.per_user,
            valid_from: template.valid_from,
            valid_until: template.valid_until,
            active: template.active,
        }
    }
}

/// A coupon that a user holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CouponView {
    /// Coupon.
    #[schema(value_type = String)]
    coupon_id: CouponId,
    /// Template that it was issued from.
    template: String,
    /// Who holds it.
    #[schema(value_type = String)]
    user_id: UserId,
    /// AVAILABLE, LOCKED (by an order that waits to be paid), USED or EXPIRED.
    state: &'static str,
    /// The order that has locked or used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    order_id: Option<OrderId>,
    /// What it takes off: the terms that it was issued with.
    #[serde(flatten)]
    terms: TermsView,
    /// Usable from, epoch ms.
    valid_from: i64,
    /// Usable before, epoch ms.
    valid_until: i64,
    /// When it was issued, epoch ms.
    created_at: i64,
    /// When it last changed, epoch ms.
    updated_at: i64,
}

impl CouponView {
    fn of(coupon: CouponRow, now_ms: i64) -> Self {
        let held = coupon.held;
        Self {
            coupon_id: CouponId(coupon.id),
            template: coupon.template,
            user_id: UserId(coupon.user_id),
            state: held.state.name(held.valid_until, now_ms),
            order_id: held.order_id.map(OrderId),
            terms: held.terms.into(),
            valid_from: held.valid_from,
            valid_until: held.valid_until,
            created_at: coupon.created_at,
            updated_at: coupon.updated_at,
        }
    }
}

fn wrong(field: &str, detail: &str) -> Problem {
    Problem::invalid(format!("{field} {detail}")).field(field, detail)
}

fn check(name: &TemplateName, body: TemplateBody) -> Result<Template, Problem> {
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return Err(wrong("name", "must have 1 to 200 characters"));
    }
    let terms = Terms {
        kind: body.kind.into(),
        amount_off: body.amount_off,
        basis_points: body.basis_points,
        max_off: body.max_off,
        min_amount: body.min_amount,
    };
    terms.check().map_err(|(field, detail)| wrong(field, detail))?;
    if !(1..=MOST).contains(&body.stock) {
        return Err(wrong("stock", "must be 1 to 1000000000"));
    }
    if !(1..=body.stock).contains(&body.per_user) {
        return Err(wrong("perUser", "must be 1 to the stock"));
    }
    if body.valid_until <= body.valid_from {
        return Err(wrong("validUntil", "must be later than validFrom"));
    }
    Ok(Template {
        template: name.to_string(),
        name: body.name,
        terms,
        stock: body.stock,
        per_user: body.per_user,
        valid_from: body.valid_from,
        valid_until: body.valid_until,
        active: body.active,
        issued: 0,
    })
}

/// Create or change a coupon template.
#[utoipa::path(put, path = "/coupons/{template}", tag = "order", request_body = TemplateBody, params(("template" = String, Path, description = "Name of the template")),
    responses((status = 200, body = TemplateView), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn put(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    ApiJson(body): ApiJson<TemplateBody>,
) -> Result<Json<TemplateView>, Problem> {
    let name: TemplateName = reply::path("template", &name)?;
    let wanted = check(&name, body)?;
    let written = state.db.write("coupon_template_set", move |tx| {
        let wanted = wanted.clone();
        Box::pin(async move { coupons::put(tx, &wanted).await })
    });
    match written.await.map_err(|error| from_db(&error))? {
        Ok(template) => Ok(Json(template.into())),
        Err(issued) => Err(Problem::conflict(format!("{issued} coupons of {name} were issued already"))
            .field("stock", format!("at least {issued}"))),
    }
}

fn unknown(name: &TemplateName) -> Problem {
    Problem::not_found(format!("there is no coupon template {name}"))
}

/// Read a coupon template.
#[utoipa::path(get, path = "/coupons/{template}", tag = "order", params(("template" = String, Path, description = "Name of the template")),
    responses((status = 200, body = TemplateView), (status = 404, body = Problem)))]
pub(super) async fn get(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
) -> Result<Json<TemplateView>, Problem> {
    let name: TemplateName = reply::path("template", &name)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let found = coupons::template(&mut conn, name.as_str()).await.map_err(|error| from_db(&error))?;
    found.map(|template| Json(template.into())).ok_or_else(|| unknown(&name))
}

/// Whom to give a coupon.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IssueBody {
    /// User.
    #[schema(value_type = String, example = "1001")]
    user_id: UserId,
}

/// Give a user a coupon.
///
/// Send an `Idempotency-Key` header to be able to repeat a request safely.
#[utoipa::path(post, path = "/coupons/{template}/issue", tag = "order", request_body = IssueBody,
    params(("template" = String, Path, description = "Name of the template"),
        ("Idempotency-Key" = Option<String>, Header, description = "At most 128 characters; a repeated key of this template and user gets the first coupon again")),
    responses((status = 201, body = CouponView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn issue(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<IssueBody>,
) -> Result<Response, Problem> {
    let name: TemplateName = reply::path("template", &name)?;
    let (key, user_id, template) = (reply::idempotency_key(&headers)?, body.user_id.0, name.clone());
    let written = state.db.write("coupon_issue", move |tx| {
        let (key, template) = (key.clone(), template.clone());
        Box::pin(async move { coupons::issue(tx, template.as_str(), user_id, key.as_deref()).await })
    });
    let now_ms = state.db.clock().now_ms();
    let conflict = |word: &str, detail: String| Err(Problem::new(StatusCode::CONFLICT, word, detail));
    match written.await.map_err(|error| from_db(&error))? {
        Issued::New(coupon) => Ok((StatusCode::CREATED, Json(CouponView::of(coupon, now_ms))).into_response()),
        Issued::Replayed(coupon) => {
            Ok((StatusCode::CREATED, reply::REPLAYED, Json(CouponView::of(coupon, now_ms))).into_response())
        }
        Issued::Unknown => Err(unknown(&name)),
        Issued::Closed => conflict("coupon-closed", format!("no coupons of {name} are given out any more")),
        Issued::OutOfStock => conflict("coupon-out-of-stock", format!("all coupons of {name} are given out")),
        Issued::UserLimit => {
            conflict("coupon-user-limit", format!("user {user_id} has as many coupons of {name} as one may get"))
        }
    }
}

/// Whose coupons to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Whose.
    user_id: String,
    /// Only older than this coupon: the `next` of the page before.
    before: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
}

/// A page of coupons.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CouponPage {
    /// Newest first.
    items: Vec<CouponView>,
    /// Pass it as `before` to get the next page; null: that was all.
    next: Option<String>,
}

/// List the coupons of a user, newest first.
#[utoipa::path(get, path = "/coupons", tag = "order", params(ListQuery),
    responses((status = 200, body = CouponPage), (status = 400, body = Problem)))]
pub(super) async fn list(
    Extract(state): Extract<State>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CouponPage>, Problem> {
    let user_id: UserId = reply::path("userId", &query.user_id)?;
    let before = reply::before(query.before.as_deref())?;
    let limit = reply::limit(query.limit, PAGE)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = coupons::of_user(&mut conn, user_id.0, before, limit).await;
    let rows = rows.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |row| row.id.to_string());
    let now_ms = state.db.clock().now_ms();
    Ok(Json(CouponPage { items: rows.into_iter().map(|row| CouponView::of(row, now_ms)).collect(), next }))
}

/// The answer to an order that cannot have its coupon.
pub(super) fn refusal(refused: Refused) -> Problem {
    let conflict = |word, detail| Problem::new(StatusCode::CONFLICT, word, detail);
    let problem = match refused {
        Refused::Unknown => Problem::invalid("the user has no such coupon"),
        Refused::Locked => conflict("coupon-taken", "another order that waits to be paid has this coupon"),
        Refused::Used => conflict("coupon-taken", "another order has used this coupon"),
        Refused::NotYet => conflict("coupon-not-valid", "the time of this coupon has not begun"),
        Refused::Expired => conflict("coupon-not-valid", "the time of this coupon is over"),
        Refused::BelowMinimum(least) => Problem::invalid(format!("this coupon is for orders of at least {least}")),
        Refused::Nothing => Problem::invalid("this coupon would take nothing off: 0.01 has to be left to be paid"),
    };
    let detail = problem.detail.as_deref().unwrap_or_default().to_owned();
    problem.field("couponId", detail)
}
