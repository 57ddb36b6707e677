//! HTTP of the order role.

mod address;
mod callback;
mod coupons;
mod orders;
mod products;
mod refunds;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::address as redirect;
use super::cancel::{Cancels, Wanted, Wish as CancelRequest};
use super::flow::Moved;
use super::gate::Gate;
use super::pay_timeout::Reminders;
use super::place::{self, NewOrder, Placed};
use super::refunds::{Asked, Wish, ask};
use crate::config::{Config, LeftOut, Scope};
use crate::db::group::{Batch, Bounds, Group};
use crate::db::{Db, DbError, Dialect};
use crate::http::{Auth, guarded, require};
use crate::roles::reply;
use crate::roles::search::View;

/// Limits and settings of the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lines of an order.
    pub max_lines: usize,
    /// Pieces of a line.
    pub max_quantity: i64,
    /// Time to pay, where the order does not say.
    pub pay_within_ms: i64,
    /// Channels that an order may name.
    pub channels: Arc<Vec<String>>,
    /// The one of an order that names none, if there is one.
    pub default_channel: Option<String>,
    /// Channels that are configured, and that no order may name.
    pub left_out: LeftOut,
    /// Signs the warehouse's callbacks.
    pub warehouse_secret: secrecy::SecretString,
    /// How far the time in a callback may be from ours.
    pub tolerance_ms: i64,
}

/// What the handlers need. A cheap clone.
#[derive(Clone)]
pub struct State {
    db: Db,
    settings: Arc<Settings>,
    gate: Option<Gate>,
    place: Group<NewOrder, Placed>,
    cancel: Group<CancelRequest, Moved>,
    refund: Group<Wish, Asked>,
    report: Group<callback::Report, callback::Reported>,
    address: Group<redirect::Wish, redirect::Redirected>,
    view: Option<View>,
}

/// The writers behind the API, to be spawned.
pub type Writers = Vec<BoxFuture<'static, ()>>;

impl State {
    /// The state of the API, and the writers behind it: `writers` of them place orders, each batch at most `batch`.
    #[must_use]
    pub fn new(db: &Db, config: &Config) -> (Self, Writers) {
        let bounds = reply::bounds(config, config.order.batch.max(1));
        // SQLite has one writer, whoever wants it.
        let writers = if db.dialect() == Dialect::Sqlite { 1 } else { config.database.writers };
        let placing_bounds = Bounds { writers: usize::try_from(writers).unwrap_or(1), ..bounds };
        let (for_place, for_cancel, for_report, for_refund) = (db.clone(), db.clone(), db.clone(), db.clone());
        let for_address = db.clone();
        let (reminders, cancels) = (Reminders::of(config), Cancels::of(config));
        let part = |name: &str| db.watchdog().part(name);
        let (place, placing) = Group::new(part("placing of orders"), placing_bounds, move |batch| {
            place::place(for_place.clone(), reminders, batch)
        });
        let (cancel, canceling) =
            Group::new(part("cancels"), bounds, move |batch| cancel_all(for_cancel.clone(), cancels, batch));
        let (refund, refunding) = Group::new(part("refunds"), bounds, move |batch| ask(for_refund.clone(), batch));
        let (report, reporting) =
            Group::new(part("parcel reports"), bounds, move |batch| callback::write(for_report.clone(), batch));
        let (address, redirecting) =
            Group::new(part("changes of address"), bounds, move |batch| redirect::change(for_address.clone(), batch));
        let settings = Settings {
            max_lines: config.order.max_lines,
            max_quantity: config.order.max_quantity,
            pay_within_ms: config.order.timeout.after.ms(),
            channels: Arc::new(config.payment.channels.keys().cloned().collect()),
            default_channel: config.payment.default_channel().map(str::to_owned),
            left_out: config.payment.left_out.clone(),
            warehouse_secret: config.warehouse.secret.clone(),
            tolerance_ms: config.payment.callback_tolerance.ms(),
        };
        let state = Self {
            db: db.clone(),
            settings: Arc::new(settings),
            gate: Gate::new(db, config),
            place,
            cancel,
            refund,
            report,
            address,
            view: None,
        };
        let writers: Writers = vec![
            Box::pin(placing),
            Box::pin(canceling),
            Box::pin(refunding),
            Box::pin(reporting),
            Box::pin(redirecting),
        ];
        (state, writers)
    }
}

impl State {
    /// Searches are answered from this view, which the process has as well.
    #[must_use]
    pub fn with_view(self, view: Option<View>) -> Self {
        Self { view, ..self }
    }

    /// The sold-out gate, to be kept up to date.
    #[must_use]
    pub fn gate(&self) -> Option<Gate> {
        self.gate.clone()
    }
}

async fn cancel_all(db: Db, cancels: Cancels, batch: Batch<CancelRequest>) -> Result<Vec<Moved>, DbError> {
    let run = || {
        let batch = batch.clone();
        db.write("cancel_order", move |tx| {
            let wanted: Vec<Wanted> = batch.requests().iter().cloned().map(Wanted::Cancel).collect();
            Box::pin(async move { cancels.advance(tx, &wanted).await })
        })
    };
    match run().await {
        // One of the payments was opened between the look and the write: now it is there to be closed.
        Err(error) if error.is_unique_violation() => run().await,
        done => done,
    }
}

/// The routes.
#[must_use]
pub fn router(state: State, auth: &Auth) -> OpenApiRouter {
    let read = OpenApiRouter::new()
        .routes(routes!(orders::get))
        .routes(routes!(orders::list))
        .routes(routes!(refunds::list))
        .routes(routes!(address::list))
        .routes(routes!(products::get))
        .routes(routes!(coupons::get))
        .routes(routes!(coupons::list));
    let orders = OpenApiRouter::new()
        .routes(routes!(orders::create))
        .routes(routes!(orders::cancel))
        .routes(routes!(address::put));
    let products = OpenApiRouter::new().routes(routes!(products::put)).routes(routes!(products::put_all));
    let coupons = OpenApiRouter::new().routes(routes!(coupons::put)).routes(routes!(coupons::issue));
    let refunds = OpenApiRouter::new().routes(routes!(refunds::refund));
    let part = |scope| require(scope, auth).since(vec![Scope::OrderWrite]);
    // Authenticated by its own signature.
    let callbacks = OpenApiRouter::new().routes(routes!(callback::fulfil));
    guarded(read, require(Scope::OrderRead, auth))
        .merge(guarded(orders, require(Scope::OrderWrite, auth)))
        .merge(guarded(products, part(Scope::ProductWrite)))
        .merge(guarded(coupons, part(Scope::CouponWrite)))
        .merge(guarded(refunds, part(Scope::RefundWrite)))
        .merge(callbacks)
        .with_state(state)
}
