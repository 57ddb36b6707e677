//! Customers who order all the time, are refused now and then, and are owed one order for each key that they send.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use tokio::task::JoinHandle;

use crate::support::clustered_roles::DEADLINE;
use crate::support::keyed_order::{self, NoOrder};
use crate::support::probe::unpaid_order;
use crate::support::waiting::eventually_or_show;

/// So many, of whom each order process is the first choice of some: one that hangs keeps only these waiting.
const CUSTOMERS: usize = 4;
/// A customer who has waited for so long asks the next process, with the same key.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two orders of a customer.
const PAUSE: Duration = Duration::from_millis(1_200);
/// Before a key is sent again.
const AGAIN: Duration = Duration::from_millis(300);

pub struct Customers {
    placed: Arc<Placed>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Placed {
    stop: AtomicBool,
    /// The order of each key.
    orders: Mutex<BTreeMap<String, String>>,
    /// How often which answer came that is no order.
    refused: Mutex<BTreeMap<String, usize>>,
}

/// What became of what customers wanted.
pub struct Ordered {
    /// The order of each key: all that were sent have one.
    pub orders: BTreeMap<String, String>,
    /// How often which answer came that is no order.
    pub refused: BTreeMap<String, usize>,
}

impl Customers {
    /// `name` makes their keys their own.
    pub fn start(name: &str, urls: &[String]) -> Self {
        let placed = Arc::<Placed>::default();
        let mut tasks = Vec::new();
        for customer in 0..CUSTOMERS {
            let mut urls = urls.to_vec();
            let first = customer % urls.len();
            urls.rotate_left(first);
            tasks.push(tokio::spawn(order_on(format!("{name}-{customer}"), urls, Arc::clone(&placed))));
        }
        Self { placed, tasks }
    }

    /// Orders so far.
    pub fn accepted(&self) -> usize {
        self.placed.orders.lock().unwrap().len()
    }

    pub async fn next_accepted(&self) {
        let before = self.accepted();
        let show = || format!("refused {:?}", self.placed.refused.lock().unwrap());
        eventually_or_show("an order is accepted", show, async || self.accepted() > before).await;
    }

    /// Ends them when the last key of each has been accepted.
    pub async fn stop(self) -> Ordered {
        self.placed.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            tokio::time::timeout(DEADLINE, task).await.expect("each key is accepted in the end").unwrap();
        }
        let placed = Arc::into_inner(self.placed).expect("the tasks have ended");
        Ordered { orders: placed.orders.into_inner().unwrap(), refused: placed.refused.into_inner().unwrap() }
    }
}

async fn order_on(name: String, urls: Vec<String>, placed: Arc<Placed>) {
    let client = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
    for number in 0_usize.. {
        if placed.stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("{name}-{number}");
        for url in urls.iter().cycle() {
            match place(&client, url, &key).await {
                Ok(order) => {
                    placed.orders.lock().unwrap().insert(key, order);
                    break;
                }
                Err(refusal) => *placed.refused.lock().unwrap().entry(refusal).or_default() += 1,
            }
            tokio::time::sleep(AGAIN).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The order of `key`, or what came instead.
async fn place(client: &Client, url: &str, key: &str) -> Result<String, String> {
    keyed_order::place(client, url, key, &unpaid_order()).await.map_err(|instead| match instead {
        NoOrder::NoAnswer => "no answer".to_owned(),
        NoOrder::Refused { status, is_later, .. } => format!("{status}{}", if is_later { ", later" } else { "" }),
    })
}
