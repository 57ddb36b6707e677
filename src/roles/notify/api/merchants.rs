//! Merchants: who they are, which payments they may open, and which secrets sign what they are told.

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Scope;
use crate::db::merchants::{self, Merchant, Profile};
use crate::db::tx::Draft;
use crate::db::{Db, DbError, Tx};
use crate::delivery::{Targets, webhook};
use crate::domain::event::Kind;
use crate::domain::id::{MerchantId, parse_id};
use crate::domain::merchant::{Accept, is_name};
use crate::http::{ApiJson, Auth, Problem, require};
use crate::roles::reply::{self, from_db};

/// Merchants of one page at most.
const PAGE: i64 = 100;
/// Entries of `accepts` at most.
const ACCEPTS_MAX: usize = 200;
/// What the column of an address holds.
const URL_MAX: usize = 500;
/// How long the secret before signs as well, where nothing else is said.
const KEEP_OLD_S: i64 = 86_400;

#[derive(Clone)]
pub(super) struct State {
    db: Db,
    targets: Targets,
}

/// The routes.
pub(super) fn router(db: Db, targets: Targets, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new().routes(routes!(get)).routes(routes!(list));
    let write = OpenApiRouter::new().routes(routes!(put)).routes(routes!(rotate));
    let read = read.route_layer(require(Scope::NotifyRead, auth));
    read.merge(write.route_layer(require(Scope::NotifyWrite, auth))).with_state(State { db, targets })
}

/// A merchant as it is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MerchantBody {
    /// Name for people, 1 to 200 characters.
    name: String,
    /// Tenant, up to 64 characters of A-Z a-z 0-9 . _ -; empty for none.
    #[serde(default)]
    tenant_id: String,
    /// Where it is told what became of its payments, as signed webhooks (Standard Webhooks); empty for nowhere.
    #[serde(default)]
    notify_url: String,
    /// May open payments, and is told.
    #[serde(default = "yes")]
    active: bool,
    /// Which payments it may open at the gateway (POST /payments).
    #[serde(default)]
    accepts: Vec<Accept>,
}

fn yes() -> bool {
    true
}

/// A merchant.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MerchantView {
    /// Merchant.
    #[schema(value_type = String)]
    merchant_id: MerchantId,
    /// Name for people.
    name: String,
    /// Tenant.
    tenant_id: String,
    /// Where it is told what became of its payments.
    notify_url: String,
    /// May open payments, and is told.
    active: bool,
    /// Which payments it may open at the gateway.
    accepts: Vec<Accept>,
    /// The secret before the present one signs as well until then, epoch ms; null: there is none.
    old_secret_until: Option<i64>,
    /// Rises with each change.
    version: i64,
    /// Epoch ms.
    created_at: i64,
    /// Epoch ms.
    updated_at: i64,
    /// The secret that signs, shown once: when the merchant or the secret is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl MerchantView {
    fn of(merchant: Merchant, now_ms: i64, show_secret: bool) -> Self {
        let old = merchant.old_secret.is_some() && now_ms < merchant.old_until;
        let Merchant { profile, .. } = merchant;
        Self {
            merchant_id: MerchantId(merchant.id),
            name: profile.name,
            tenant_id: profile.tenant_id,
            notify_url: profile.notify_url,
            active: profile.active,
            accepts: profile.accepts,
            old_secret_until: old.then_some(merchant.old_until),
            version: merchant.version,
            created_at: merchant.created_at,
            updated_at: merchant.updated_at,
            secret: show_secret.then(|| merchant.secret.expose_secret().to_owned()),
        }
    }
}

fn check(body: &MerchantBody, targets: &Targets) -> Result<(), Problem> {
    let wrong = |field: &str, detail: String| Err(Problem::invalid(format!("{field}: {detail}")).field(field, detail));
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return wrong("name", "must have 1 to 200 characters".to_owned());
    }
    let names = "must have up to 64 characters out of A-Z a-z 0-9 . _ -";
    if !(body.tenant_id.is_empty() || is_name(&body.tenant_id)) {
        return wrong("tenantId", names.to_owned());
    }
    if body.notify_url.len() > URL_MAX {
        return wrong("notifyUrl", format!("must have at most {URL_MAX} bytes"));
    }
    if !body.notify_url.is_empty()
        && let Err(why) = targets.check_given(&body.notify_url)
    {
        return wrong("notifyUrl", why);
    }
    if body.accepts.len() > ACCEPTS_MAX {
        return wrong("accepts", format!("must have at most {ACCEPTS_MAX} entries"));
    }
    for (at, entry) in body.accepts.iter().enumerate() {
        if !is_name(&entry.product_id) || !is_name(&entry.channel_id) {
            return wrong(&format!("accepts[{at}]"), format!("productId and channelId {names}, at least one"));
        }
        if entry.max_amount.is_some_and(|most| most < entry.min_amount) {
            return wrong(&format!("accepts[{at}]"), "maxAmount is less than minAmount".to_owned());
        }
        let same = |one: &&Accept| one.product_id == entry.product_id && one.channel_id == entry.channel_id;
        if body.accepts.iter().filter(same).count() > 1 {
            return wrong(&format!("accepts[{at}]"), "stands there twice".to_owned());
        }
    }
    Ok(())
}

/// Create or change a merchant. The answer to its creation shows the secret that signs what it is told.
#[utoipa::path(put, path = "/merchants/{merchantId}", tag = "notify", request_body = MerchantBody,
    params(("merchantId" = String, Path, description = "Merchant id")),
    responses((status = 200, body = MerchantView), (status = 201, body = MerchantView), (status = 422, body = Problem)))]
async fn put(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    ApiJson(body): ApiJson<MerchantBody>,
) -> Result<(StatusCode, Json<MerchantView>), Problem> {
    let merchant_id: MerchantId = reply::path("merchantId", &id)?;
    check(&body, &state.targets)?;
    let MerchantBody { name, tenant_id, notify_url, active, accepts } = body;
    let profile = Profile { name, tenant_id, notify_url, active, accepts };
    let first = webhook::new_secret();
    let written = state.db.write("merchant_set", move |tx| {
        let (profile, first) = (profile.clone(), first.clone());
        Box::pin(async move { set(tx, merchant_id.0, profile, first).await })
    });
    let (merchant, is_new) = written.await.map_err(|error| from_db(&error))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(MerchantView::of(merchant, state.db.clock().now_ms(), is_new))))
}

/// The merchant as it is now, and whether it is new. What changes nothing tells nobody.
async fn set(tx: &mut Tx, id: i64, profile: Profile, first: SecretString) -> Result<(Merchant, bool), DbError> {
    let now_ms = tx.now_ms();
    let known = merchants::lock(tx, vec![id]).await?.remove(&id);
    let is_new = known.is_none();
    let merchant = match known {
        Some(known) if known.profile == profile => return Ok((known, false)),
        Some(known) => Merchant { profile, version: known.version + 1, updated_at: now_ms, ..known },
        None => Merchant {
            id,
            profile,
            secret: first,
            old_secret: None,
            old_until: 0,
            version: 1,
            created_at: now_ms,
            updated_at: now_ms,
        },
    };
    merchants::put(tx, &merchant).await?;
    let (body, version) = (merchant.changed(), merchant.version.to_string());
    let draft = Draft::new(Kind::MerchantChanged, id, &body, None);
    tx.emit(&Draft { discriminator: &version, ..draft })?;
    Ok((merchant, is_new))
}

/// How the secret changes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotateBody {
    /// So many seconds the secret that was valid until now signs as well, 0 to 2592000 (30 days). By default 86400.
    keep_old_for_seconds: Option<i64>,
}

/// Give a merchant a new secret, which the answer shows. What it is told is signed with both for a while.
#[utoipa::path(post, path = "/merchants/{merchantId}/secret", tag = "notify", request_body = RotateBody,
    params(("merchantId" = String, Path, description = "Merchant id")),
    responses((status = 200, body = MerchantView), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn rotate(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    body: Option<ApiJson<RotateBody>>,
) -> Result<Json<MerchantView>, Problem> {
    let merchant_id: MerchantId = reply::path("merchantId", &id)?;
    let keep_s = body.and_then(|ApiJson(body)| body.keep_old_for_seconds).unwrap_or(KEEP_OLD_S);
    if !(0..=30 * KEEP_OLD_S).contains(&keep_s) {
        let detail = "keepOldForSeconds must be 0 to 2592000";
        return Err(Problem::invalid(detail).field("keepOldForSeconds", detail));
    }
    let secret = webhook::new_secret();
    let written = state.db.write("merchant_set", move |tx| {
        let secret = secret.clone();
        Box::pin(async move {
            let Some(known) = merchants::lock(tx, vec![merchant_id.0]).await?.remove(&merchant_id.0) else {
                return Ok(None);
            };
            let (now_ms, old_secret) = (tx.now_ms(), Some(known.secret));
            let old_until = now_ms + keep_s * 1_000;
            let merchant = Merchant { secret, old_secret, old_until, updated_at: now_ms, ..known };
            merchants::put(tx, &merchant).await?;
            Ok(Some(merchant))
        })
    });
    let merchant = written.await.map_err(|error| from_db(&error))?.ok_or_else(|| unknown(merchant_id))?;
    Ok(Json(MerchantView::of(merchant, state.db.clock().now_ms(), true)))
}

fn unknown(merchant_id: MerchantId) -> Problem {
    Problem::not_found(format!("there is no merchant {merchant_id}"))
}

/// Read a merchant.
#[utoipa::path(get, path = "/merchants/{merchantId}", tag = "notify",
    params(("merchantId" = String, Path, description = "Merchant id")),
    responses((status = 200, body = MerchantView), (status = 404, body = Problem)))]
async fn get(Extract(state): Extract<State>, Path(id): Path<String>) -> Result<Json<MerchantView>, Problem> {
    let merchant_id: MerchantId = reply::path("merchantId", &id)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let mut found = merchants::get(&mut conn, vec![merchant_id.0]).await.map_err(|error| from_db(&error))?;
    let merchant = found.remove(&merchant_id.0).ok_or_else(|| unknown(merchant_id))?;
    Ok(Json(MerchantView::of(merchant, state.db.clock().now_ms(), false)))
}

/// Which merchants to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Only those after this one: the `next` of the page before.
    after: Option<String>,
    /// 1 to 100.
    limit: Option<i64>,
}

/// A page of merchants.
#[derive(Debug, Serialize, ToSchema)]
struct MerchantPage {
    /// In the order of their ids.
    items: Vec<MerchantView>,
    /// Pass it as `after` to get the next page; null: that was all.
    next: Option<String>,
}

/// List merchants.
#[utoipa::path(get, path = "/merchants", tag = "notify", params(ListQuery),
    responses((status = 200, body = MerchantPage), (status = 400, body = Problem)))]
async fn list(Extract(state): Extract<State>, Query(query): Query<ListQuery>) -> Result<Json<MerchantPage>, Problem> {
    let after = query.after.as_deref().map(|text| parse_id("after", text)).transpose();
    let after = after.map_err(|error| Problem::bad_request(error.to_string()).field("after", error.to_string()))?;
    let limit = reply::limit(query.limit, PAGE)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = merchants::page(&mut conn, after.unwrap_or(0), limit).await.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |merchant| merchant.id.to_string());
    let now_ms = state.db.clock().now_ms();
    Ok(Json(MerchantPage { items: rows.into_iter().map(|one| MerchantView::of(one, now_ms, false)).collect(), next }))
}
