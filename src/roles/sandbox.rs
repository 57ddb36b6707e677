//! Stand-ins for a payment channel and a warehouse: what outside systems do, inside the process.
//!
//! They keep nothing in memory. A request is verified and becomes calls back to us in the `delivery` table, which the
//! delivery engine makes in their time: so a crash loses no callback, and a repeated request adds none.

mod channel;
mod signed;
mod warehouse;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request as Incoming;
use axum::http::HeaderMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Clock;
use crate::config::{Config, Scope};
use crate::db::delivery::{self, Delivery, Kind};
use crate::db::group::{Batch, Group};
use crate::db::{Db, DbError, Tx};
use crate::delivery::Targets;
use crate::http::{Auth, Problem, guarded, require};
use crate::roles::reply;

pub use signed::read_signed;

/// Requests in one transaction at most.
const BATCH: usize = 256;

/// A call back that waits to be asked for is due from this time on: 2200-01-01, epoch ms.
pub const SILENT_UNTIL: i64 = 7_258_118_400_000;

/// State of the sandbox's routes. A cheap clone.
#[derive(Clone)]
pub struct Sandbox {
    db: Db,
    writer: Group<Request, u64>,
    targets: Targets,
    /// The channels that it plays.
    channels: Arc<BTreeSet<String>>,
    /// It plays the warehouse.
    is_warehouse: bool,
    clock: Clock,
    tolerance_ms: i64,
    step_delay_ms: i64,
}

/// What one request writes.
#[derive(Clone, Debug)]
enum Request {
    /// Calls to be made; ids are given out later, `next_at` is set.
    Insert(Arc<Vec<Delivery>>),
    /// The silent calls back of this payment are due now.
    Release(i64),
}

/// Answer to what was taken in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxAccepted)]
pub struct Accepted {
    /// Calls back that belong to this request; the same when it is repeated.
    pub callbacks: u64,
}

impl Sandbox {
    /// The state, and the writer, to be spawned; it ends when the last clone of the state is gone. Secrets are those
    /// of `targets`.
    pub fn new(db: &Db, config: &Config, targets: Targets) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let writing = db.clone();
        let part = db.watchdog().part("sandbox");
        let (writer, run) = Group::new(part, reply::bounds(config, BATCH), move |batch| write(writing.clone(), batch));
        let own = config.payment.channels.iter().filter(|(_, channel)| channel.is_own_sandbox());
        let sandbox = Self {
            db: db.clone(),
            writer,
            targets,
            channels: Arc::new(own.map(|(id, _)| id.clone()).collect()),
            is_warehouse: config.warehouse.url().is_none(),
            clock: db.clock().clone(),
            tolerance_ms: config.payment.callback_tolerance.ms(),
            step_delay_ms: config.sandbox.warehouse.step_delay.ms(),
        };
        (sandbox, run)
    }

    async fn submit(&self, request: Request) -> Result<u64, Problem> {
        self.writer.submit(request).await.map_err(|error| reply::not_written(&error))
    }

    /// The body of a request signed for this channel. What is signed for a real channel is meant for that one, however
    /// it came here: a yes from here would be taken for its word, and no money would have moved.
    fn read_channel<T: DeserializeOwned>(
        &self,
        channel_id: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<T, Problem> {
        let secret = self.targets.channel_secret(channel_id).filter(|_| self.channels.contains(channel_id));
        // Whether a channel exists is nobody's business without its secret.
        let secret = secret.ok_or_else(unsigned)?;
        read_signed(secret, headers, body, self.clock.now_ms(), self.tolerance_ms)
    }

    /// The body of a request signed for the warehouse. Where there is a real one, it is meant for that.
    fn read_order<T: DeserializeOwned>(&self, headers: &HeaderMap, body: &Bytes) -> Result<T, Problem> {
        if !self.is_warehouse {
            return Err(unsigned());
        }
        read_signed(self.targets.warehouse_secret(), headers, body, self.clock.now_ms(), self.tolerance_ms)
    }

    /// The body of a request that seems to be signed.
    async fn body_of(&self, request: Incoming) -> Result<(HeaderMap, Bytes), Problem> {
        reply::signed_body(request, self.clock.now_ms(), self.tolerance_ms).await
    }
}

/// The answer to what nobody here has a secret for.
fn unsigned() -> Problem {
    Problem::unauthorized("the signature does not match")
}

async fn write(db: Db, batch: Batch<Request>) -> Result<Vec<u64>, DbError> {
    db.write("sandbox", move |tx| {
        let batch = batch.clone();
        Box::pin(async move { write_in(tx, &batch.requests()).await })
    })
    .await
}

async fn write_in(tx: &mut Tx, requests: &[Request]) -> Result<Vec<u64>, DbError> {
    let mut calls = Vec::new();
    for request in requests {
        if let Request::Insert(wanted) = request {
            calls.extend(wanted.iter().map(|call| Delivery { id: tx.next_id(), ..call.clone() }));
        }
    }
    // Calls of a repeated request are there already, and are left out.
    delivery::insert(tx, &calls).await?.or_known();
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(match request {
            Request::Insert(wanted) => wanted.len() as u64,
            Request::Release(payment_id) => {
                delivery::release(tx, Kind::SandboxPayment, &payment_id.to_string(), SILENT_UNTIL).await?
            }
        });
    }
    Ok(answers)
}

/// The payment channel.
pub fn channel_router(state: Sandbox, auth: &Auth) -> OpenApiRouter {
    // The submissions are signed; whoever makes a silent payment call back has to be somebody, too.
    let control = guarded(OpenApiRouter::new().routes(routes!(channel::call_back)), require(Scope::PaymentWrite, auth));
    let signed = OpenApiRouter::new().routes(routes!(channel::pay)).routes(routes!(channel::refund));
    signed.routes(routes!(channel::query)).merge(control).with_state(state)
}

/// The warehouse.
pub fn warehouse_router(state: Sandbox) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(warehouse::take_order)).with_state(state)
}
