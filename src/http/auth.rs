//! API keys: who calls, and what they may do. Callbacks of channels and warehouses carry their own signature instead.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower::{Layer, Service};

use super::problem::Problem;
use crate::config::{ApiKey, Scope};

/// Longest API key that is looked at.
const KEY_MAX_BYTES: usize = 512;

/// A hash in `http.keys` that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("http.keys: sha256 of {0:?} is not 64 hex digits")]
pub struct AuthError(pub String);

/// The keys that are known. Without any, everyone may do everything: a role then listens on loopback only.
#[derive(Clone, Debug)]
pub struct Auth {
    keys: Arc<[Known]>,
}

#[derive(Debug)]
struct Known {
    hash: [u8; 32],
    caller: Caller,
}

/// Who calls; in the request's extensions behind [`require`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's name; `local` when no keys are configured.
    pub name: Arc<str>,
    scopes: Arc<[Scope]>,
}

impl Caller {
    /// True when this caller may do what `scope` stands for.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }
}

impl Auth {
    /// Reads the configured keys.
    ///
    /// # Errors
    /// A hash that is not 64 hex digits.
    pub fn new(keys: &[ApiKey]) -> Result<Self, AuthError> {
        let read = |key: &ApiKey| {
            let hash = hex::decode(&key.sha256).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let caller = Caller { name: key.name.as_str().into(), scopes: key.scopes.as_slice().into() };
            hash.map(|hash| Known { hash, caller }).ok_or_else(|| AuthError(key.name.clone()))
        };
        Ok(Self { keys: keys.iter().map(read).collect::<Result<Vec<_>, _>>()?.into() })
    }

    /// The caller behind `headers`, if it holds one of `scopes`.
    fn check(&self, headers: &HeaderMap, scopes: &[Scope]) -> Result<Caller, Problem> {
        if self.keys.is_empty() {
            return open(headers);
        }
        let presented = presented_key(headers).ok_or_else(|| {
            Problem::unauthorized("this needs an API key: Authorization: Bearer <key>, or X-Api-Key: <key>")
        })?;
        let caller = self.find(presented).ok_or_else(|| Problem::unauthorized("this API key is not known"))?;
        if scopes.iter().any(|scope| caller.may(*scope)) {
            return Ok(caller);
        }
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        Err(Problem::forbidden(format!("this API key lacks the scope {}", names.join(" or "))))
    }

    /// Compares with every key, whichever matches, so that timing tells nothing.
    fn find(&self, presented: &[u8]) -> Option<Caller> {
        let hash = Sha256::digest(presented);
        let mut found = None;
        for known in self.keys.iter() {
            if bool::from(known.hash.ct_eq(hash.as_slice())) {
                found = Some(known.caller.clone());
            }
        }
        found
    }
}

/// Without keys only this machine can call. A web page open on it must not be able to: no foreign `Origin`, and no
/// `Host` that is not this machine (DNS rebinding).
fn open(headers: &HeaderMap) -> Result<Caller, Problem> {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let host = text(header::HOST);
    if host.is_some_and(|host| !is_this_machine(host)) {
        return Err(Problem::forbidden("without API keys this server answers to localhost only"));
    }
    if let Some(origin) = text(header::ORIGIN)
        && host != Some(origin.split_once("://").map_or(origin, |(_, host)| host))
    {
        return Err(Problem::forbidden("requests from other web sites need an API key"));
    }
    Ok(Caller { name: "local".into(), scopes: [Scope::Admin].into() })
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

/// Lets only callers with `scope` through: `.route_layer(require(Scope::OrderWrite, &auth))`, or `.layer(...)` on a
/// method router.
#[must_use]
pub fn require(scope: Scope, auth: &Auth) -> Require {
    require_any(vec![scope], auth)
}

/// As [`require`], for callers with one of `scopes`; what exactly they may do is the handler's to ask.
#[must_use]
pub fn require_any(scopes: Vec<Scope>, auth: &Auth) -> Require {
    Require { scopes: scopes.into(), auth: auth.clone() }
}

/// The layer made by [`require`].
#[derive(Clone, Debug)]
pub struct Require {
    scopes: Arc<[Scope]>,
    auth: Auth,
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
    S: Service<Request, Response = Response>,
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
        match self.require.auth.check(request.headers(), &self.require.scopes) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(problem) => Box::pin(std::future::ready(Ok(problem.into_response()))),
        }
    }
}
