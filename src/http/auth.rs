//! API keys: who calls, and what they may do. Callbacks of channels and warehouses carry their own signature instead.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower::{Layer, Service};
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::OpenApiRouter;

use super::docs;
use super::problem::Problem;
use super::rate::Rate;
use crate::cache::SharedRate;
use crate::config::{ApiKey, Http, Scope};
use crate::domain::id::MerchantId;

/// Longest API key that is looked at.
const KEY_MAX_BYTES: usize = 512;

/// Who calls where no keys are configured.
const LOCAL: &str = "local";

/// A hash in `http.keys` that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("http.keys: sha256 of {0:?} is not 64 hex digits")]
pub struct AuthError(pub String);

/// The keys that are known. Without any, everyone may do everything: a role then listens on loopback only.
#[derive(Clone, Debug)]
pub struct Auth {
    keys: Arc<[Known]>,
    local: Option<Rate>,
    wide_scopes: bool,
}

#[derive(Debug)]
struct Known {
    hash: [u8; 32],
    caller: Caller,
    rate: Option<Rate>,
}

/// Who calls; in the request's extensions behind [`require`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's name; `local` when no keys are configured.
    pub name: Arc<str>,
    /// The merchant that it acts for, and for no other; `None`: for the shop.
    pub merchant: Option<MerchantId>,
    scopes: Arc<[Scope]>,
    wide_scopes: bool,
}

impl Caller {
    /// True when this caller may do what `scope` stands for.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }

    /// [`Caller::may`], where `before` stood for the same until it had a scope of its own (`http.wide_scopes`).
    #[must_use]
    pub fn may_since(&self, scope: Scope, before: Scope) -> bool {
        self.may(scope) || (self.wide_scopes && self.may(before))
    }

    /// True for what belongs to this merchant, and for a caller that acts for no merchant.
    #[must_use]
    pub fn acts_for(&self, merchant: MerchantId) -> bool {
        self.merchant.is_none_or(|own| own == merchant)
    }
}

impl Auth {
    /// Reads the configured keys; `shared` is asked first for their rates where there is one.
    ///
    /// # Errors
    /// A hash that is not 64 hex digits.
    pub fn new(http: &Http, shared: Option<&SharedRate>) -> Result<Self, AuthError> {
        let rate = |name: &str| {
            (http.rate_limit > 0).then(|| Rate::new(http.rate_limit, shared.map(|shared| shared.of(name))))
        };
        let read = |key: &ApiKey| {
            let hash = hex::decode(&key.sha256).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let caller = Caller {
                name: key.name.as_str().into(),
                merchant: key.merchant,
                scopes: key.scopes.as_slice().into(),
                wide_scopes: http.wide_scopes,
            };
            let known = hash.map(|hash| Known { hash, rate: rate(&key.name), caller });
            known.ok_or_else(|| AuthError(key.name.clone()))
        };
        let keys = http.keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { keys: keys.into(), local: rate(LOCAL), wide_scopes: http.wide_scopes })
    }

    /// The caller behind a request, if it may do what is required, and the limit that it is counted by.
    fn check(&self, request: &Request, require: &Require) -> Result<(Caller, Option<Rate>), Problem> {
        if self.keys.is_empty() {
            return open(request).map(|()| (self.local_caller(), self.local.clone()));
        }
        let presented = presented_key(request.headers()).ok_or_else(|| {
            Problem::unauthorized("this needs an API key: Authorization: Bearer <key>, or X-Api-Key: <key>")
        })?;
        let known = self.find(presented).ok_or_else(|| Problem::unauthorized("this API key is not known"))?;
        let caller = &known.caller;
        let may = require.scopes.iter().any(|scope| caller.may(*scope))
            || (self.wide_scopes && require.before.iter().any(|scope| caller.may(*scope)));
        if !may {
            let names: Vec<&str> = require.scopes.iter().map(|scope| scope.as_str()).collect();
            return Err(Problem::forbidden(format!("this API key lacks the scope {}", names.join(" or "))));
        }
        if let (Some(merchant), false) = (caller.merchant, require.of_merchants) {
            let detail = format!("this API key acts for merchant {merchant} only, and this is about the whole shop");
            return Err(Problem::forbidden(detail));
        }
        Ok((caller.clone(), known.rate.clone()))
    }

    fn local_caller(&self) -> Caller {
        let scopes = [Scope::Admin].into();
        Caller { name: LOCAL.into(), merchant: None, scopes, wide_scopes: self.wide_scopes }
    }

    /// Compares with every key, whichever matches, so that timing tells nothing.
    fn find(&self, presented: &[u8]) -> Option<&Known> {
        let hash = Sha256::digest(presented);
        let mut found = None;
        for known in self.keys.iter() {
            if bool::from(known.hash.ct_eq(hash.as_slice())) {
                found = Some(known);
            }
        }
        found
    }
}

/// Headers of proxies: behind one, whoever calls may be anywhere.
const PROXY_HEADERS: [&str; 4] = ["forwarded", "via", "x-real-ip", "x-client-ip"];
/// What the other headers of proxies begin with.
const PROXY_PREFIX: &str = "x-forwarded-";

/// Without keys only this machine can call. A web page open on it must not be able to: no foreign `Origin`, and no
/// `Host` that is not this machine (DNS rebinding). Nor may a proxy on it pass on what comes from elsewhere.
fn open(request: &Request) -> Result<(), Problem> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(Problem::forbidden("without API keys a request needs one Host header, which names localhost")),
    };
    let target = request.uri().host();
    if !is_this_machine(host) || target.is_some_and(|target| !is_this_machine(target)) {
        return Err(Problem::forbidden("without API keys this server answers to localhost only"));
    }
    let is_of_proxy = |name: &str| PROXY_HEADERS.contains(&name) || name.starts_with(PROXY_PREFIX);
    if let Some(name) = headers.keys().map(header::HeaderName::as_str).find(|name| is_of_proxy(name)) {
        let detail = format!("without API keys nothing is taken from a proxy ({name}): configure [[http.keys]]");
        return Err(Problem::forbidden(detail));
    }
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    if let Some(origin) = origin
        && host != origin.split_once("://").map_or(origin, |(_, host)| host)
    {
        return Err(Problem::forbidden("requests from other web sites need an API key"));
    }
    Ok(())
}

/// `localhost` or a loopback address, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let key = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))?.trim_ascii();
    (!key.is_empty() && key.len() <= KEY_MAX_BYTES).then_some(key)
}

/// Lets only callers with `scope` through: `guarded(routes, require(Scope::OrderWrite, &auth))`.
#[must_use]
pub fn require(scope: Scope, auth: &Auth) -> Require {
    require_any(vec![scope], auth)
}

/// As [`require`], for callers with one of `scopes`; what exactly they may do is the handler's to ask.
#[must_use]
pub fn require_any(scopes: Vec<Scope>, auth: &Auth) -> Require {
    Require { scopes: scopes.into(), before: [].into(), of_merchants: false, auth: auth.clone() }
}

/// `routes` behind `require`, which the description of the API tells of each of them.
#[must_use]
pub fn guarded<S: Clone + Send + Sync + 'static>(mut routes: OpenApiRouter<S>, require: Require) -> OpenApiRouter<S> {
    let paths = &mut routes.get_openapi_mut().paths.paths;
    for operation in paths.values_mut().flat_map(docs::operations) {
        operation.security = Some(require.described());
    }
    routes.route_layer(require)
}

/// The layer made by [`require`].
#[derive(Clone, Debug)]
pub struct Require {
    scopes: Arc<[Scope]>,
    /// What stood for the same before, for `http.wide_scopes`.
    before: Arc<[Scope]>,
    of_merchants: bool,
    auth: Auth,
}

impl Require {
    /// Also lets those through who hold one of these, where `http.wide_scopes` says so.
    #[must_use]
    pub fn since(self, before: Vec<Scope>) -> Self {
        Self { before: before.into(), ..self }
    }

    /// Also lets those through who act for one merchant: a `{merchantId}` in the path has to be theirs, and anything
    /// else is the handler's to ask ([`Caller::acts_for`]).
    #[must_use]
    pub fn of_merchants(self) -> Self {
        Self { of_merchants: true, ..self }
    }

    /// One of the scopes, by either way to present a key. Roles of their own tell that keys of merchants will do.
    fn described(&self) -> Vec<SecurityRequirement> {
        let mut ways = Vec::new();
        for scope in self.scopes.iter() {
            let merchants = self.of_merchants.then_some("merchant");
            let names = || [scope.as_str()].into_iter().chain(merchants);
            ways.extend([SecurityRequirement::new("bearer", names()), SecurityRequirement::new("apiKey", names())]);
        }
        ways
    }
}

impl<S> Layer<S> for Require {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, require: self.clone() }
    }
}

/// A service behind [`require`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    require: Require,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (caller, rate) = match self.require.auth.check(&request, &self.require) {
            Ok(known) => known,
            Err(problem) => return Box::pin(std::future::ready(Ok(problem.into_response()))),
        };
        let merchant = caller.merchant;
        request.extensions_mut().insert(caller);
        if merchant.is_none() && rate.is_none() {
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready is called; the clone gets ready in its own time.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            match admit(request, merchant, rate).await {
                Ok(request) => inner.call(request).await,
                Err(problem) => Ok(problem.into_response()),
            }
        })
    }
}

/// Counts a request, and compares the merchant in its path.
async fn admit(request: Request, merchant: Option<MerchantId>, rate: Option<Rate>) -> Result<Request, Problem> {
    if let Some(rate) = rate {
        rate.take().await?;
    }
    let Some(merchant) = merchant else { return Ok(request) };

    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let params = params.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let named = params.iter().find(|(name, _)| *name == "merchantId").map(|(_, id)| id.parse::<MerchantId>());
    match named {
        Some(Ok(id)) if id != merchant => Err(of_another_merchant(merchant)),
        _ => Ok(Request::from_parts(parts, body)),
    }
}

/// 403 for a caller that acts for `merchant` only.
#[must_use]
pub fn of_another_merchant(merchant: MerchantId) -> Problem {
    Problem::forbidden(format!("this API key acts for merchant {merchant} only"))
}
