//! Accepting connections: no more than a set number, none that dawdles, and all of them finished at the end.
//!
//! Some places beyond that number are for probes. Whoever else comes to one waits a moment for a place of the others.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};

use super::limits::Limits;
use super::problem::{Problem, RETRY_AFTER_SECONDS};
use super::server::PROBES;
use super::timed::{Patience, Timed, Turn};

/// Pause after a failed accept: out of file descriptors, most likely, which only time mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Connections beyond `http.connections`, for probes.
const RESERVED: usize = 16;

/// Who holds a place for probes has a moment only.
const RESERVED_PATIENCE: Duration = Duration::from_secs(2);

/// How long a request that is no probe waits there for a place of its own.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// The places for connections.
struct Places {
    room: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    /// Rings for the connection that is open longest: it is to close after its answer.
    make_room: Notify,
}

/// The place of one connection.
#[derive(Clone)]
struct Place(Arc<Mutex<Held>>);

struct Held {
    _permit: OwnedSemaphorePermit,
    is_reserved: bool,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, is_reserved: bool) -> Self {
        Self(Arc::new(Mutex::new(Held { _permit: permit, is_reserved })))
    }

    fn is_reserved(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_reserved
    }

    /// From now on it is one of the others, and the place for probes is free.
    fn settle(&self, permit: OwnedSemaphorePermit) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Held { _permit: permit, is_reserved: false };
    }
}

/// Serves connections until `stop`, then waits for the requests in hand.
pub(super) async fn run(listener: TcpListener, router: Router, limits: Limits, stop: &CancellationToken) {
    let places = Arc::new(Places {
        room: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        reserve: Arc::new(Semaphore::new(RESERVED)),
        make_room: Notify::new(),
    });
    let open = TaskTracker::new();
    while let Some((stream, place)) = next(&listener, &places, stop).await {
        let (router, stop, places) = (router.clone(), stop.clone(), Arc::clone(&places));
        open.spawn(async move { serve(stream, router, limits, &places, &place, stop).await });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

/// The next connection with its place; nothing when it is time to stop. What comes while even the places for probes
/// are taken waits in the kernel's queue.
async fn next(listener: &TcpListener, places: &Places, stop: &CancellationToken) -> Option<(TcpStream, Place)> {
    let accepted = async {
        let reserved = Arc::clone(&places.reserve).acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                // The peer has gone already; the next one may be fine.
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let place = match Arc::clone(&places.room).try_acquire_owned() {
            Ok(permit) => Place::new(permit, false),
            Err(_) => {
                places.make_room.notify_one();
                Place::new(reserved, true)
            }
        };
        Some((stream, place))
    };
    stop.run_until_cancelled(accepted).await.flatten()
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    places: &Arc<Places>,
    place: &Place,
    stop: CancellationToken,
) {
    // Small answers must not wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let mut patience = Patience { head: limits.head, write: limits.write };
    if place.is_reserved() {
        patience =
            Patience { head: patience.head.min(RESERVED_PATIENCE), write: patience.write.min(RESERVED_PATIENCE) };
    }
    let turn = Arc::new(Turn::default());
    let stream = TokioIo::new(Timed::new(stream, patience, Arc::clone(&turn)));
    let (places_of_service, place) = (Arc::clone(places), place.clone());
    let service = service_fn(move |request: Request| {
        let (router, places, place) = (router.clone(), Arc::clone(&places_of_service), place.clone());
        let turn = Arc::clone(&turn);
        async move {
            turn.begin();
            let response = answer(request, router, &places, &place).await;
            turn.end();
            Ok::<_, Infallible>(response)
        }
    });
    let service = service.map_request(|request: http::Request<_>| -> Request { request.map(Body::new) });

    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle);
    let mut connection = pin!(builder.serve_connection(stream, TowerToHyperService::new(service)));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = stop.cancelled() => {}, () = places.make_room.notified() => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "connection ended");
    }
}

/// The answer of `router`; on a place for probes only to these, or once there is another place.
async fn answer(request: Request, router: Router, places: &Places, place: &Place) -> Response {
    let is_probe = PROBES.contains(&request.uri().path());
    if place.is_reserved() && !is_probe {
        let waiting = Arc::clone(&places.room).acquire_owned();
        match tokio::time::timeout(PLACE_WAIT, waiting).await {
            Ok(Ok(permit)) => place.settle(permit),
            _ => return closing(too_many().into_response()),
        }
    }
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if place.is_reserved() { closing(response) } else { response }
}

fn too_many() -> Problem {
    Problem::unavailable("too many connections (http.connections)", RETRY_AFTER_SECONDS)
}

fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
