//! Parties outside of the application: one real HTTP server that does to each request what a script says, and what
//! must come of it with each of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ruyi::audit::{self, RoleDbs};
use ruyi::clock::Clock;
use ruyi::delivery::sign;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::outbound::Seen;
use crate::support::serving::Serving;

/// Nothing here takes so long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The secret of the channel `bank`.
pub const SECRET: &str = "a secret of the bank";

/// Calls are given up after so many attempts only: a slow machine has some that fail by themselves.
const ATTEMPTS: usize = 60;

/// What it does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Does what it is asked to, and says so.
    Do,
    /// Only says so; with 2xx it does it.
    Say(u16, &'static str),
    /// Says with 429 that it is to be asked again after a second.
    NotNow,
    /// Says nothing until the caller has given up.
    Hang,
    /// Closes the connection without a word.
    Close,
    /// Does it, and breaks off before it has said so.
    Cut,
    /// Breaks off in the middle of an answer with this status; with 2xx it does it.
    Torn(u16),
    /// Does nothing. Of its no only the head comes, a 200, and then this.
    Lost(After),
    /// Does it, and says so when the caller has given up.
    Late,
    /// Does it, and somebody in between answers with this status.
    Masked(u16, &'static str),
    /// Does it, and says so twice.
    Twice,
    /// Does it, and says this once [`Party::open`] lets it.
    Hold(u16),
}

/// What comes instead of the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The end of the connection.
    Close,
    /// Nothing, until the caller has given up.
    Hang,
    /// The end of the connection, of which the head says that it will be that of the body.
    End,
}

/// All heads without a body.
pub const LOST: [Act; 3] = [Act::Lost(After::Close), Act::Lost(After::Hang), Act::Lost(After::End)];

impl Act {
    fn does(self) -> bool {
        match self {
            Self::Say(status, _) | Self::Torn(status) => (200..300).contains(&status),
            Self::Do | Self::Cut | Self::Masked(..) | Self::Late | Self::Twice | Self::Hold(_) => true,
            Self::NotNow | Self::Hang | Self::Close | Self::Lost(_) => false,
        }
    }
}

/// All that goes wrong without being a no.
pub const WRONGS: [Act; 8] = [
    Act::Hang,
    Act::Say(500, "out of order"),
    Act::Close,
    Act::Cut,
    Act::Torn(502),
    Act::Late,
    Act::NotNow,
    Act::Twice,
];

/// A call that meets all of them, and one for each; and one whose answer has said what counts when it breaks off.
pub fn scripts() -> Vec<Vec<Act>> {
    let mut scripts: Vec<Vec<Act>> = WRONGS.map(|act| vec![act]).to_vec();
    scripts.extend([WRONGS.to_vec(), vec![Act::Torn(200)]]);
    scripts
}

/// The server. A cheap clone.
#[derive(Clone)]
pub struct Party {
    base: String,
    path: &'static str,
    then: Act,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct State {
    /// For keys that have not come yet.
    scripts: VecDeque<VecDeque<Act>>,
    /// What is still to come of the script of each key.
    plans: BTreeMap<String, VecDeque<Act>>,
    asked: Vec<Seen>,
    /// What it has done, in this order: once for each key, as the keys are for.
    done: Vec<Seen>,
    /// What it says when it is asked what became of a refund: nothing that counts, or this.
    word: Option<&'static str>,
}

struct Inner {
    state: Mutex<State>,
    gate: Semaphore,
}

impl Party {
    /// On requests for `path`, each new idempotency key takes the next of `scripts`; after its script, `then`. Whatever
    /// else it is asked, it does.
    pub async fn start(path: &'static str, scripts: Vec<Vec<Act>>, then: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let scripts = scripts.into_iter().map(VecDeque::from).collect();
        let state = Mutex::new(State { scripts, ..State::default() });
        let party = Self { base, path, then, inner: Arc::new(Inner { state, gate: Semaphore::new(0) }) };
        let serving = party.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        party
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The next new key takes this script.
    pub fn script(&self, acts: &[Act]) {
        self.inner.state.lock().unwrap().scripts.push_back(acts.iter().copied().collect());
    }

    /// From now on it says this, signed, when it is asked what became of a refund.
    pub fn says_of_refunds(&self, status: &'static str) {
        self.inner.state.lock().unwrap().word = Some(status);
    }

    /// Lets what is held, and later, be answered.
    pub fn open(&self) {
        self.inner.gate.close();
    }

    /// The requests for its path.
    pub fn asked(&self) -> Vec<Seen> {
        self.inner.state.lock().unwrap().asked.clone()
    }

    /// What it has done of that.
    pub fn done(&self) -> Vec<Seen> {
        self.inner.state.lock().unwrap().done.clone()
    }

    pub fn keys(&self) -> BTreeSet<String> {
        self.done().iter().map(|seen| key(seen).to_owned()).collect()
    }

    /// Waits until it has done so much.
    pub async fn has_done(&self, count: usize) -> Vec<Seen> {
        until("it is done", || self.done().len() >= count).await;
        self.done()
    }

    /// So many things were asked for, each under one key and in the same words, and done; none of it was given up.
    pub fn is_asked_for(&self, count: usize) {
        let (asked, done) = (self.asked(), self.done());
        let mut bodies = BTreeMap::new();
        for seen in &asked {
            let first = bodies.entry(key(seen)).or_insert(&seen.body);
            assert_eq!(*first, &seen.body, "{}", key(seen));
        }
        assert_eq!((bodies.len(), done.len()), (count, count), "{asked:#?}");
        let state = self.inner.state.lock().unwrap();
        let left: Vec<Act> = state.plans.values().chain(&state.scripts).flatten().copied().collect();
        assert_eq!(left, [], "not all of it came");
    }

    fn take(&self, seen: Seen) -> Act {
        if seen.path != self.path {
            return Act::Do;
        }
        let mut guard = self.inner.state.lock().unwrap();
        let state = &mut *guard;
        let known = key(&seen).to_owned();
        let plan = state.plans.entry(known.clone());
        let plan = plan.or_insert_with(|| state.scripts.pop_front().unwrap_or_default());
        let act = plan.pop_front().unwrap_or(self.then);
        if act.does() && !state.done.iter().any(|one| key(one) == known) {
            state.done.push(seen.clone());
        }
        state.asked.push(seen);
        act
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let seen = request(&mut stream).await?;
            let word = self.inner.state.lock().unwrap().word.filter(|_| seen.path == "/query");
            if let Some(word) = word {
                stream.get_mut().write_all(signed_word(word, &seen).as_bytes()).await.ok()?;
                continue;
            }
            let act = self.take(seen);
            let fine = answer(200, "", "{}");
            let text = match act {
                Act::Do => fine,
                Act::Say(status, text) | Act::Masked(status, text) => answer(status, "", text),
                Act::NotNow => answer(429, "retry-after: 1\r\n", ""),
                Act::Twice => fine.repeat(2),
                Act::Close => return None,
                Act::Cut => fine[..20].to_owned(),
                Act::Torn(status) => answer(status, "", "{\"result\": \"no\"}").replace("\"no\"}", ""),
                Act::Lost(After::End) => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
                Act::Lost(_) => "HTTP/1.1 200 OK\r\ncontent-length: 60\r\n\r\n".to_owned(),
                Act::Hang | Act::Late => {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                    fine
                }
                Act::Hold(status) => {
                    // Never given out, only closed.
                    let _ = self.inner.gate.acquire().await;
                    answer(status, "", "")
                }
            };
            stream.get_mut().write_all(text.as_bytes()).await.ok()?;
            if act == Act::Lost(After::Hang) {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            if matches!(act, Act::Hang | Act::Late | Act::Cut | Act::Torn(_) | Act::Lost(_)) {
                return None;
            }
        }
    }
}

/// The idempotency key of a request.
pub fn key(seen: &Seen) -> &str {
    seen.header("idempotency-key")
}

/// The body of a request.
pub fn body(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

fn answer(status: u16, more: &str, text: &str) -> String {
    let status = StatusCode::from_u16(status).unwrap();
    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\n\r\n{text}", text.len())
}

/// What became of the refund that is asked about, signed by the bank.
fn signed_word(status: &str, seen: &Seen) -> String {
    let asked = body(seen);
    let text = json!({ "status": status, "refundId": asked["refundId"], "amount": asked["amount"] }).to_string();
    let at_s = Clock::system().now_ms() / 1_000;
    let signature = sign::sign(&SECRET.to_owned().into(), at_s, text.as_bytes());
    let headers = format!("{}: {at_s}\r\n{}: {signature}\r\n", sign::TIMESTAMP_HEADER, sign::SIGNATURE_HEADER);
    answer(200, &headers, &text)
}

/// The next request of a connection; none at its end.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let (mut first, mut headers) = (String::new(), HeaderMap::new());
    stream.read_line(&mut first).await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let mut seen = Seen { path: first.split(' ').nth(1)?.to_owned(), headers, body: String::new() };
    let mut body = vec![0; seen.header("content-length").parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}

/// Waits until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A filled shop that tries calls of each kind again at once, and gives up on none.
pub async fn impatient(settings: &[String]) -> Serving {
    let schedule = format!("[{}]", ["\"10ms\""; ATTEMPTS].join(","));
    let mut sets = vec!["delivery.breaker.failures=0".to_owned()];
    for scope in ["delivery", "delivery.kinds.merchant", "delivery.kinds.sms"] {
        sets.extend([format!("{scope}.schedule={schedule}"), format!("{scope}.timeout=1s")]);
    }
    // A later one counts.
    sets.extend_from_slice(settings);
    let serving = Serving::start(&sets.iter().map(String::as_str).collect::<Vec<_>>()).await;
    serving.fill().await;
    serving
}

/// Nothing is under way any more, and what is on record fits.
pub async fn is_consistent(serving: &Serving) {
    let found = violations(serving).await;
    assert!(found.is_empty(), "{found:#?}");
}

/// What the audit finds once nothing is under way any more.
pub async fn violations(serving: &Serving) -> Vec<audit::Violation> {
    serving.settled().await;
    let strict = audit::Options {
        settle_ms: 0,
        bound_ms: 0,
        page: 100,
        evidence: 10,
        events_kept_ms: 1_000_000_000,
        data_sync: true,
        parcel_bound_ms: 1_000_000_000,
        zone: jiff::tz::TimeZone::UTC,
    };
    audit::run(&RoleDbs::one(serving.db()), &strict).await.unwrap().violations
}

/// The channel `bank` has the money of a payment, and says so.
pub async fn money_comes(serving: &Serving, payment: &Value) -> StatusCode {
    let (id, pay_time) = (payment["paymentId"].as_str().unwrap(), serving.now_s() * 1_000);
    let body = json!({ "paymentId": id, "transactionNo": format!("B{id}"), "amount": payment["amount"],
        "currency": "CNY", "merchantId": payment["merchantId"], "payTime": pay_time });
    let call = serving.signed("/payments/callback/bank", SECRET, serving.now_s(), &body.to_string());
    serving.reply(call.header("content-type", "application/json")).await.0
}

/// An order of 59.80 that the bank's money paid, signed for; its id.
pub async fn signed(serving: &Serving) -> String {
    let order = json!({"userId": "7", "channelId": "bank", "items": [{"sku": "A1", "quantity": 1}]});
    let id = serving.place(&order).await;
    let payment = serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
    assert_eq!(money_comes(serving, &payment).await, StatusCode::OK);
    serving.until(&format!("/orders/{id}"), "status", "SIGNED").await;
    id
}

/// The setting by which this bank is the channel `bank`.
pub fn channel(bank: &Party) -> String {
    format!(r#"payment.channels.bank={{kind="http",secret="{SECRET}",endpoint="{}"}}"#, bank.url(""))
}

/// A shop with the channel `bank`.
pub async fn shop_with(bank: &Party, more: &[&str]) -> Serving {
    let mut settings = vec![channel(bank)];
    settings.extend(more.iter().map(|one| (*one).to_owned()));
    impatient(&settings).await
}

/// Orders of 59.80 each, whose payments are open; order and payment.
pub async fn opened(serving: &Serving, count: usize, more: Value) -> Vec<(String, Value)> {
    let mut order = json!({ "userId": "7", "channelId": "bank", "items": [{ "sku": "A1", "quantity": 1 }] });
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut orders = Vec::new();
    for _ in 0..count {
        let id = serving.place(&order).await;
        let payment = serving.until(&format!("/payments/{id}"), "status", "PENDING").await;
        orders.push((id, payment));
    }
    orders
}
