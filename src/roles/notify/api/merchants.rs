//! Merchants: who they are, which payments they may open, and which secrets sign what they are told.

use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Scope;
use crate::db::merchants::{self, Merchant, Profile};
use crate::db::{Db, DbError, Tx};
use crate::delivery::{Targets, webhook};
use crate::domain::id::{MerchantId, parse_id};
use crate::domain::merchant::{Accept, is_name};
use crate::http::{ApiJson, Auth, Caller, Problem, guarded, require};
use crate::roles::notify::secrets::{self, Rotated, Rotation};
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
    let read = guarded(read, require(Scope::NotifyRead, auth).of_merchants());
    // What a merchant may take is not its own to say.
    let write = guarded(OpenApiRouter::new().routes(routes!(put)), require(Scope::NotifyWrite, auth));
    let rotate = OpenApiRouter::new().routes(routes!(rotate));
    let rotate = guarded(rotate, require(Scope::NotifyWrite, auth).of_merchants());
    read.merge(write).merge(rotate).with_state(State { db, targets })
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
    /// Secrets before the present one sign as well, the last of them until then, epoch ms; null: there are none.
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
        let old_secret_until = merchant.old_at(now_ms).map(|old| old.until).max();
        let Merchant { profile, .. } = merchant;
        Self {
            merchant_id: MerchantId(merchant.id),
            name: profile.name,
            tenant_id: profile.tenant_id,
            notify_url: profile.notify_url,
            active: profile.active,
            accepts: profile.accepts,
            old_secret_until,
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
        None => {
            Merchant { id, profile, secret: first, old: Vec::new(), version: 1, created_at: now_ms, updated_at: now_ms }
        }
    };
    merchants::put(tx, &merchant).await?;
    merchants::tell(tx, &merchant)?;
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
///
/// Send an `Idempotency-Key` header to be able to repeat a request safely: the answer is the same then, unless the secret
/// has been changed again since (409).
#[utoipa::path(post, path = "/merchants/{merchantId}/secret", tag = "notify", request_body = RotateBody,
    params(("merchantId" = String, Path, description = "Merchant id"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters; a repeated key gets the first answer again")),
    responses((status = 200, body = MerchantView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn rotate(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Option<ApiJson<RotateBody>>,
) -> Result<Response, Problem> {
    let merchant_id: MerchantId = reply::path("merchantId", &id)?;
    let keep_s = body.and_then(|ApiJson(body)| body.keep_old_for_seconds).unwrap_or(KEEP_OLD_S);
    if !(0..=30 * KEEP_OLD_S).contains(&keep_s) {
        let detail = "keepOldForSeconds must be 0 to 2592000";
        return Err(Problem::invalid(detail).field("keepOldForSeconds", detail));
    }
    let request = format!("{merchant_id} {keep_s}");
    let key = reply::request_key("merchant_secret", &caller, &headers, &request)?;
    let rotation = Rotation { merchant_id: merchant_id.0, secret: webhook::new_secret(), keep_ms: keep_s * 1_000, key };
    let written = state.db.write("merchant_set", move |tx| {
        let rotation = rotation.clone();
        Box::pin(async move { secrets::rotate(tx, rotation).await })
    });
    let now_ms = state.db.clock().now_ms();
    let shown = |merchant| Json(MerchantView::of(merchant, now_ms, true));
    match written.await.map_err(|error| from_db(&error))? {
        Rotated::Done(merchant) => Ok(shown(*merchant).into_response()),
        Rotated::Replayed(merchant) => Ok((reply::REPLAYED, shown(*merchant)).into_response()),
        Rotated::KeyReused => Err(reply::key_reused()),
        Rotated::Replaced => Err(Problem::conflict("the secret of this request has been replaced since")),
        Rotated::TooMany => Err(Problem::conflict(format!(
            "{} earlier secrets still sign: wait until one ends, or let them end sooner (keepOldForSeconds)",
            secrets::MOST_OLD
        ))),
        Rotated::Unknown => Err(unknown(merchant_id)),
    }
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
async fn list(
    Extract(state): Extract<State>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
) -> Result<Json<MerchantPage>, Problem> {
    let after = query.after.as_deref().map(|text| parse_id("after", text)).transpose();
    let after = after.map_err(|error| Problem::bad_request(error.to_string()).field("after", error.to_string()))?;
    let limit = reply::limit(query.limit, PAGE)?;
    let mut conn = state.db.read().await.map_err(|error| from_db(&error))?;
    let rows = match caller.merchant {
        None => merchants::page(&mut conn, after.unwrap_or(0), limit).await,
        Some(own) if own.0 <= after.unwrap_or(0) => Ok(Vec::new()),
        Some(own) => merchants::get(&mut conn, vec![own.0]).await.map(|found| found.into_values().collect()),
    };
    let rows = rows.map_err(|error| from_db(&error))?;
    let next = reply::next(&rows, limit, |merchant| merchant.id.to_string());
    let now_ms = state.db.clock().now_ms();
    Ok(Json(MerchantPage { items: rows.into_iter().map(|one| MerchantView::of(one, now_ms, false)).collect(), next }))
}
