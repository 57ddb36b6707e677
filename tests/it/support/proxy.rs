//! A TCP proxy before a server: connections through it freeze, slow down, break or half end, one of them or all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How bytes pass through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Nothing passes, in either direction, and nobody is told.
    Frozen,
    /// What the client sends arrives; what the server answers does not.
    Mute,
    /// Each piece waits for so long.
    Slow(Duration),
    /// Both ends are closed.
    Cut,
    /// The client hears that the server is gone, and the server does not hear that the client is.
    HalfOpen,
}

struct Link {
    flow: watch::Sender<Flow>,
}

struct Inner {
    port: u16,
    target: Mutex<SocketAddr>,
    /// The flow of connections that are still to come.
    new: Mutex<Flow>,
    links: Mutex<Vec<Link>>,
}

/// A cheap clone; it ends with the runtime of its test.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

impl Proxy {
    /// Listens on a free port of this machine, and leads to `port`.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Self(Arc::new(Inner {
            port: listener.local_addr().unwrap().port(),
            target: Mutex::new(SocketAddr::from(([127, 0, 0, 1], port))),
            new: Mutex::new(Flow::Open),
            links: Mutex::default(),
        }));
        tokio::spawn(proxy.clone().accept(listener));
        proxy
    }

    /// `url` with this proxy's port instead of its own.
    pub fn url(&self, url: &str) -> String {
        let (before, after) = url.split_once("127.0.0.1:").unwrap();
        let (_, path) = after.split_once('/').unwrap();
        format!("{before}127.0.0.1:{}/{path}", self.0.port)
    }

    /// Connections that come from now on lead to `port`; those that are there stay where they are.
    pub fn lead_to(&self, port: u16) {
        *self.0.target.lock().unwrap() = SocketAddr::from(([127, 0, 0, 1], port));
    }

    /// All connections that are there. Returns how many.
    pub fn set_present(&self, flow: Flow) -> usize {
        let links = self.0.links.lock().unwrap();
        for link in links.iter() {
            link.flow.send_replace(flow);
        }
        links.len()
    }

    /// All connections that come from now on.
    pub fn set_new(&self, flow: Flow) {
        *self.0.new.lock().unwrap() = flow;
    }

    /// Those that are there and those that come.
    pub fn set_all(&self, flow: Flow) {
        self.set_new(flow);
        self.set_present(flow);
    }

    /// The connection that was made as the `index`-th, from 0.
    pub fn set_one(&self, index: usize, flow: Flow) {
        self.0.links.lock().unwrap()[index].flow.send_replace(flow);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.0.links.lock().unwrap().len()
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (flow, flows) = watch::channel(*self.0.new.lock().unwrap());
            self.0.links.lock().unwrap().push(Link { flow });
            let target = *self.0.target.lock().unwrap();
            tokio::spawn(connect(client, target, flows));
        }
    }
}

async fn connect(client: TcpStream, target: SocketAddr, mut flows: watch::Receiver<Flow>) {
    // A connection that comes while all are frozen is accepted and never served, as by a machine that hangs.
    if flows.wait_for(|flow| *flow != Flow::Frozen).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pass(from_client, to_server, flows.clone(), false);
    let down = pass(from_server, to_client, flows, true);
    tokio::join!(up, down);
}

/// One direction of a connection.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flows: watch::Receiver<Flow>, is_answer: bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let flow = *flows.borrow_and_update();
        match flow {
            Flow::Cut => return,
            Flow::HalfOpen if is_answer => {
                // The client's end is closed, the server's stays open and is not read.
                drop(to);
                while flows.changed().await.is_ok() {}
                return;
            }
            Flow::Frozen | Flow::HalfOpen => {
                if flows.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Flow::Mute if is_answer => {
                if flows.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Flow::Open | Flow::Mute | Flow::Slow(_) => {}
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = flows.changed() => continue,
        };
        let count = read.unwrap_or(0);
        let now = *flows.borrow();
        if let Flow::Slow(wait) = now {
            tokio::time::sleep(wait).await;
        }
        // What was on its way when the connection froze stays there until it thaws.
        let held = |flow: &Flow| *flow == Flow::Frozen || (*flow == Flow::Mute && is_answer);
        if flows.wait_for(|flow| !held(flow)).await.is_err() || *flows.borrow() == Flow::Cut {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
