//! Listening and serving: the routes of a role plus what every role answers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use super::limits::Limits;
use super::problem::Problem;
use super::{accept, docs, observe};
use crate::config::{Config, NotExposable};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Paths that answer while load is shed and all places for connections are taken.
pub(super) const PROBES: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/scale"];

/// A readiness check that takes longer has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a role does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Other machines could reach it, and nothing would stop them.
    #[error(transparent)]
    NotExposable(#[from] NotExposable),
    /// The address is taken or not ours.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// One thing that must work before traffic is sent here.
#[derive(Clone)]
pub struct ReadyCheck {
    name: &'static str,
    run: Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>,
}

impl ReadyCheck {
    /// `run` says what is wrong; it is called at each `/readyz`.
    pub fn new<F, Fut>(name: &'static str, run: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self {
            name,
            run: Arc::new(move || {
                let check = run();
                Box::pin(async move { check.await.map(|()| "ok".to_owned()) })
            }),
        }
    }

    /// Something that `/readyz` tells and that never keeps traffic away.
    pub fn telling(name: &'static str, tell: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            name,
            run: Arc::new(move || {
                let told = tell();
                Box::pin(async move { Ok(told) })
            }),
        }
    }
}

impl fmt::Debug for ReadyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyCheck").field(&self.name).finish()
    }
}

/// Makes the answer of `/scale`.
pub type Scale = Arc<dyn Fn() -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// What is served at one address.
pub struct App {
    /// Title in the API description.
    pub title: String,
    /// The routes of the roles, state already given.
    pub api: OpenApiRouter,
    /// What `/readyz` asks.
    pub checks: Vec<ReadyCheck>,
    /// What `/healthz` asks: what a new process cures, and nothing else does.
    pub live: Vec<ReadyCheck>,
    /// Where requests are counted; also what `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/scale` answers, where there is something to be scaled.
    pub scale: Option<Scale>,
    /// Around the routes of the roles; probes and metrics are outside, so that they answer while load is shed.
    pub limits: Limits,
}

impl App {
    /// The whole service; `stopping` makes `/readyz` fail, so that load balancers move on.
    pub fn into_router(self, stopping: CancellationToken) -> Router {
        let (api, description) = self.api.split_for_parts();
        let mut probes = Router::new()
            .route("/healthz", get(alive).with_state(Arc::from(self.live)))
            .route("/readyz", get(ready).with_state((Arc::from(self.checks), stopping)))
            .route("/metrics", get(metrics).with_state(self.metrics.clone()));
        if let Some(scale) = self.scale {
            probes = probes.route("/scale", get(move || async move { Json(scale().await) }));
        }
        self.limits
            .around(api)
            .merge(probes)
            .merge(docs::routes(&self.title, description))
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(CatchPanicLayer::custom(observe::panicked))
            .layer(middleware::from_fn_with_state(self.metrics, observe::observe))
    }
}

/// A listener that is bound, so that its address is known before anything is served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

/// Listens at `addr` (port 0: any free one), unless that would expose an unprotected API.
///
/// # Errors
/// [`ListenError`].
pub async fn bind(addr: SocketAddr, config: &Config) -> Result<Bound, ListenError> {
    config.check_exposed(addr)?;
    bind_probes(addr).await
}

/// Listens at `addr` (port 0: any free one) for probes and metrics only, which need no keys.
///
/// # Errors
/// [`ListenError::Bind`].
pub async fn bind_probes(addr: SocketAddr) -> Result<Bound, ListenError> {
    let failed = |source| ListenError::Bind { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, addr })
}

impl Bound {
    /// The address bound, with its real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` is cancelled, then finishes the requests in hand.
    pub async fn serve(self, app: App, shutdown: &Shutdown) {
        tracing::info!(addr = %self.addr, title = app.title, "listening");
        let limits = app.limits;
        let router = app.into_router(shutdown.token.clone());
        accept::run(self.listener, router, limits, &shutdown.token).await;
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    checks: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: BTreeMap<&'static str, String>,
}

/// What the checks say, and whether all is well.
async fn asked(checks: &[ReadyCheck]) -> (bool, BTreeMap<&'static str, String>) {
    let results = join_all(checks.iter().map(|check| async move {
        let result = tokio::time::timeout(READY_TIMEOUT, (check.run)()).await;
        (check.name, result.unwrap_or_else(|_| Err("no answer in time".to_owned())))
    }))
    .await;
    let fine = results.iter().all(|(_, result)| result.is_ok());
    let report = results.into_iter().map(|(name, result)| (name, result.unwrap_or_else(|wrong| wrong)));
    (fine, report.collect())
}

async fn alive(State(checks): State<Arc<[ReadyCheck]>>) -> Response {
    match asked(&checks).await {
        (true, _) => Json(Health { status: "ok", checks: BTreeMap::new() }).into_response(),
        (false, checks) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "restart", checks })).into_response()
        }
    }
}

async fn ready(State((checks, stopping)): State<(Arc<[ReadyCheck]>, CancellationToken)>) -> Response {
    let (well, checks) = asked(&checks).await;
    let fine = well && !stopping.is_cancelled();
    let (code, status) = match (fine, stopping.is_cancelled()) {
        (true, _) => (StatusCode::OK, "ready"),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let mut response = (code, Json(Readiness { status, checks })).into_response();
    if !fine {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Result<Response, Problem> {
    let text = metrics.encode().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
