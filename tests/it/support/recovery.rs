//! What every fault is held to: no accepted order is lost or doubled, what the fault does not concern goes on,
//! `/readyz` names what is wrong and nothing else, and all is as before soon after the cause has ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use ruyi::audit::{self, RoleDbs};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::keyed_order::{self, NoOrder};
use crate::support::role_books::STRICT;
use crate::support::serving::{Serving, order_of};
use crate::support::waiting::{eventually, eventually_or_show};

/// What is promised: all is as before within so long after the cause of a fault has ended.
const AS_BEFORE: Duration = Duration::from_secs(15);
/// So many times longer at most, where more programs want the processors than there are.
const MOST_CROWDED: f64 = 3.0;
/// Between two looks at `/readyz`.
const LOOK: Duration = Duration::from_millis(300);
/// Between two orders of a caller, and before a key is repeated.
const PAUSE: Duration = Duration::from_millis(400);
/// A caller who has waited for so long takes it that there is no answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing takes so long, on however slow a machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A moment by the steady clock: something breaks, or its cause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    pub fn now() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Looks until it is so; fails where that has taken longer than is promised.
    pub async fn as_before(self, what: &str, look: impl AsyncFnMut() -> bool) {
        self.within(AS_BEFORE, what, look).await;
    }

    /// As [`Moment::as_before`], with a bound of its own. It grows where other tests and a cluster keep the processors
    /// busy: the promise is for a machine that can do its work.
    pub async fn within(self, bound: Duration, what: &str, look: impl AsyncFnMut() -> bool) {
        eventually(what, look).await;
        let (took, most) = (self.elapsed(), bound.mul_f64(crowd()));
        assert!(took <= most, "{what}: it took {took:.1?}; {bound:?} are promised, {most:.1?} while it is so crowded");
    }
}

/// How many programs with something to do there are for each processor, within reason.
fn crowd() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (load / processors as f64).clamp(1.0, MOST_CROWDED)
}

/// An answer of `/readyz`.
#[derive(Clone, Debug)]
pub struct Answer {
    pub asked: Moment,
    pub answered: Moment,
    pub is_ready: bool,
    pub checks: Value,
}

/// Asks for `/readyz` all the time.
pub struct Readiness {
    answers: Arc<Mutex<Vec<Answer>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Readiness {
    pub fn watch(serving: &Serving) -> Self {
        let url = format!("{}/readyz", serving.process.base_url());
        let (answers, stop) = (Arc::default(), Arc::default());
        let task = tokio::spawn(ask_on(url, Arc::clone(&answers), Arc::clone(&stop)));
        Self { answers, stop, task }
    }

    /// It was asked after `moment`, and was ready.
    pub fn is_ready_since(&self, moment: Moment) -> bool {
        self.answers.lock().unwrap().iter().any(|answer| answer.asked >= moment && answer.is_ready)
    }

    /// It was not ready since `moment`, and said why.
    pub fn has_told_since(&self, moment: Moment, is_named: impl Fn(&Value) -> bool) -> bool {
        let answers = self.answers.lock().unwrap();
        answers.iter().any(|answer| answer.asked >= moment && !answer.is_ready && is_named(&answer.checks))
    }

    pub async fn stop(self) -> Answers {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        Answers(self.answers.lock().unwrap().clone())
    }
}

async fn ask_on(url: String, answers: Arc<Mutex<Vec<Answer>>>, stop: Arc<AtomicBool>) {
    let client = Client::builder().timeout(DEADLINE).no_proxy().build().unwrap();
    let mut asking = JoinSet::new();
    while !stop.load(Ordering::SeqCst) {
        // The next look does not wait for a slow answer.
        asking.spawn(ask(client.clone(), url.clone(), Arc::clone(&answers)));
        while let Some(asked) = asking.try_join_next() {
            asked.unwrap();
        }
        tokio::time::sleep(LOOK).await;
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}

async fn ask(client: Client, url: String, answers: Arc<Mutex<Vec<Answer>>>) {
    let asked = Moment::now();
    let response = client.get(url).send().await.expect("/readyz answers");
    let is_ready = response.status().is_success();
    let told: Value = response.json().await.unwrap();
    let answer = Answer { asked, answered: Moment::now(), is_ready, checks: told["checks"].clone() };
    answers.lock().unwrap().push(answer);
}

/// What `/readyz` has answered.
pub struct Answers(Vec<Answer>);

impl Answers {
    /// It was ready all the time; its answers.
    pub fn all_ready(self) -> Vec<Answer> {
        assert!(!self.0.is_empty());
        for answer in &self.0 {
            assert!(answer.is_ready, "this is no reason not to be ready: {}", answer.checks);
        }
        self.0
    }

    /// It was ready before `began`, at the end, and whenever all had to be as before again after `ended`. Where it was
    /// not between these, it named what it should.
    pub fn named_alone(self, began: Moment, ended: Moment, is_named: impl Fn(&Value) -> bool) {
        let last = self.0.iter().max_by_key(|answer| answer.asked).expect("it was asked");
        assert!(last.is_ready, "not ready at the end: {}", last.checks);
        let back = Moment(ended.0 + AS_BEFORE.mul_f64(crowd()));
        for answer in self.0.iter().filter(|answer| !answer.is_ready) {
            let checks = &answer.checks;
            assert!(answer.answered >= began, "not ready before the fault: {checks}");
            assert!(answer.asked <= back, "not ready long after the fault: {checks}");
            assert!(is_named(checks), "not ready for another reason: {checks}");
        }
    }
}

/// Callers who order with idempotency keys, and repeat a key until it is accepted.
pub struct Callers {
    told: Arc<Told>,
    urls: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Told {
    stop: AtomicBool,
    /// The order of each key.
    orders: Mutex<BTreeMap<String, String>>,
    refused: AtomicUsize,
    /// Neither accepted, nor told to come again.
    wrong: Mutex<Vec<String>>,
}

impl Callers {
    /// So many, each of whom asks one of these processes after the other.
    pub fn start(count: usize, servings: &[&Serving]) -> Self {
        let told = Arc::<Told>::default();
        let urls: Vec<String> = servings.iter().map(|serving| serving.process.base_url().to_owned()).collect();
        let call = |caller| tokio::spawn(order_on(caller, urls.clone(), Arc::clone(&told)));
        Self { tasks: (0..count).map(call).collect(), told, urls }
    }

    /// The orders so far.
    pub fn orders(&self) -> Vec<String> {
        self.told.orders.lock().unwrap().values().cloned().collect()
    }

    /// How often a caller was told to come again.
    pub fn refused(&self) -> usize {
        self.told.refused.load(Ordering::SeqCst)
    }

    /// Waits until so many more orders were accepted.
    pub async fn until_accepted(&self, more: usize) {
        let wanted = self.orders().len() + more;
        eventually("orders are accepted", async || {
            self.told.check();
            self.orders().len() >= wanted
        })
        .await;
    }

    /// Waits until callers were told so many more times to come again.
    pub async fn until_refused(&self, more: usize) {
        let wanted = self.refused() + more;
        eventually("callers are told to come again", async || {
            self.told.check();
            self.refused() >= wanted
        })
        .await;
    }

    /// Ends them when the last key of each was accepted, and repeats every key: it has the order that it had. The
    /// orders.
    pub async fn stop(self) -> Vec<String> {
        self.told.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            tokio::time::timeout(DEADLINE, task).await.expect("each key is accepted in the end").unwrap();
        }
        let (client, orders) = (client(), self.told.orders.lock().unwrap().clone());
        for ((key, order), url) in orders.iter().zip(self.urls.iter().rev().cycle()) {
            assert_eq!(place(&client, url, key, &self.told).await.as_ref(), Some(order), "{key} has one order");
        }
        self.told.check();
        orders.into_values().collect()
    }
}

impl Told {
    fn check(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn client() -> Client {
    Client::builder().timeout(PATIENCE).no_proxy().build().unwrap()
}

async fn order_on(caller: usize, urls: Vec<String>, told: Arc<Told>) {
    let client = client();
    let mut processes = urls.iter().cycle().skip(caller);
    for number in 0_usize.. {
        if told.stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("caller-{caller}-{number}");
        let order = loop {
            let url = processes.next().expect("a process");
            let accepted = place(&client, url, &key, &told).await;
            tokio::time::sleep(PAUSE).await;
            if let Some(order) = accepted {
                break order;
            }
        };
        told.orders.lock().unwrap().insert(key, order);
    }
}

/// The order of `key`, if it was accepted. If not, or if there was no answer, the same key is to be sent again.
async fn place(client: &Client, url: &str, key: &str, told: &Told) -> Option<String> {
    match keyed_order::place(client, url, key, &order_of("A1", 1)).await {
        Ok(order) => Some(order),
        Err(NoOrder::NoAnswer) => None,
        Err(NoOrder::Refused { status, is_later, text }) => {
            if status != StatusCode::SERVICE_UNAVAILABLE || !is_later {
                told.wrong.lock().unwrap().push(format!("{key}: {status}, later: {is_later}, {text}"));
            }
            told.refused.fetch_add(1, Ordering::SeqCst);
            None
        }
    }
}

/// What the list of these orders says in `field`, in its order.
async fn of_each(serving: &Serving, orders: &[String], field: &str) -> Vec<Value> {
    let mut values = Vec::new();
    for some in orders.chunks(50) {
        let page = serving.get(&format!("/orders?ids={}", some.join(","))).await;
        values.extend(page["items"].as_array().unwrap().iter().map(|order| order[field].clone()));
    }
    values
}

/// Each of these orders is there, and has `value` in `field`.
pub async fn are_all(serving: &Serving, orders: &[String], field: &str, value: &str) -> bool {
    let seen = of_each(serving, orders, field).await;
    seen.len() == orders.len() && seen.iter().all(|one| one == value)
}

/// Nobody pays for these orders of [`Callers`]: each is canceled, and so reaches its end. No key has more than one
/// order, no message was given up, and the audit finds nothing.
pub async fn none_lost_or_doubled(serving: &Serving, orders: &[String]) {
    for id in orders {
        serving.fine(Method::POST, &format!("/orders/{id}/cancel"), &json!({"reason": "no"})).await;
    }
    eventually("they end", async || are_all(serving, orders, "outcome", "CANCELED").await).await;

    let stored = serving.number("SELECT COUNT(*) FROM orders WHERE idempotency_key IS NOT NULL").await;
    assert_eq!(usize::try_from(stored).unwrap(), orders.len(), "each key has one order");
    let letters = serving.number("SELECT COUNT(*) FROM message_process_log WHERE outcome = 3").await;
    assert_eq!(letters, 0, "dead letters");
    audit_finds_nothing(serving).await;
}

async fn audit_finds_nothing(serving: &Serving) {
    let dbs = RoleDbs::each(|role| serving.process.db_of(role).cloned().ok_or(())).unwrap();
    let found = Mutex::new(String::new());
    let show = || found.lock().unwrap().clone();
    eventually_or_show("the audit finds nothing", show, async || {
        let report = audit::run(&dbs, &STRICT).await.unwrap();
        *found.lock().unwrap() = format!("{:#?}", report.violations);
        report.is_clean()
    })
    .await;
}
