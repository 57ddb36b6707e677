//! Named points at which a test makes the program fail or die, in the real binary as well.
//!
//! `RUYI_CRASH_AT=<point>` or `<point>:<n>` aborts the process at the n-th passage: what a power cut at that place
//! would do. Of several points, separated by commas, the one that is passed first ends it, and the log names it. Tests in
//! the same process plan errors with [`Faults::plan`] instead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Environment variable that names the points to die at.
pub const CRASH_AT: &str = "RUYI_CRASH_AT";

/// Transactions of the program: each has the points `<name>.before_commit` and `<name>.after_commit`.
pub const TRANSACTIONS: [&str; 27] = [
    "node",
    "product_set",
    "coupon_template_set",
    "coupon_issue",
    "create_order",
    "cancel_order",
    "refund_order",
    "order_address",
    "timeout",
    "consume",
    "retry",
    "retry_claim",
    "pay",
    "pay_callback",
    "fulfil_callback",
    "delivery_claim",
    "delivery_result",
    "sandbox",
    "outbox_claim",
    "outbox_mark",
    "stock_set",
    "stock_sync",
    "points_spend",
    "merchant_set",
    "gateway_pay",
    "gateway_act",
    "contact_set",
];

/// Transactions for what a version before has left behind.
pub const TRANSACTIONS_OF_UPGRADES: [&str; 1] = ["channel_query"];

/// Transactions that only `payment.publish = "transaction"` has.
pub const TRANSACTIONS_OF_CHECKS: [&str; 2] = ["check_back", "tx_resume"];

/// Transactions of the operator's commands, which end after them, and of what operators do over HTTP.
pub const TRANSACTIONS_OF_TOOLS: [&str; 7] =
    ["delivery_again", "delivery_cancel", "outbox_again", "prune", "repair", "retry_again", "settle_refund"];

/// Points that only `payment.publish = "transaction"` has: the half message is stored; a check-back is decided.
pub const POINTS_OF_CHECKS: [&str; 2] = ["transaction.prepared", "transaction.checked"];

/// Points outside a transaction.
pub const POINTS: [&str; 3] = ["relay.published", "delivery.called", "consume.acknowledge"];

/// Every point, in the order of the lists above.
#[must_use]
pub fn all_points() -> Vec<String> {
    let stages = ["before_commit", "after_commit"];
    let of_transactions = TRANSACTIONS.iter().flat_map(|name| stages.map(|stage| format!("{name}.{stage}")));
    of_transactions.chain(POINTS.map(str::to_owned)).collect()
}

/// Decides at each passage of a point whether it fails.
pub type Plan = Box<dyn FnMut(&str, &str) -> bool + Send>;

/// What the points of one process do. A cheap clone; without a plan a passage costs one comparison.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Inner>>);

enum Inner {
    Crash(Vec<CrashPoint>),
    Plan(Mutex<Plan>),
}

struct CrashPoint {
    name: String,
    /// Passages until it ends the process.
    countdown: AtomicU64,
}

impl CrashPoint {
    /// From `<point>` or `<point>:<n>`.
    fn parse(text: &str) -> Self {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        Self { name: name.to_owned(), countdown: AtomicU64::new(count.parse().unwrap_or(1).max(1)) }
    }

    fn pass(&self, name: &str, stage: &str) {
        let is_here = self.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) == Some(stage);
        if is_here && self.countdown.fetch_sub(1, Ordering::SeqCst) == 1 {
            tracing::error!("{CRASH_AT}: the process dies at {name}.{stage}");
            std::process::abort();
        }
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Faults").field(&self.0.is_some()).finish()
    }
}

impl Faults {
    /// No faults.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// As the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let Ok(text) = std::env::var(CRASH_AT) else { return Self::none() };
        Self(Some(Arc::new(Inner::Crash(text.split(',').map(CrashPoint::parse).collect()))))
    }

    /// Fails where `plan(name, stage)` says so.
    #[must_use]
    pub fn plan(plan: Plan) -> Self {
        Self(Some(Arc::new(Inner::Plan(Mutex::new(plan)))))
    }

    /// Passes the point `<name>.<stage>`: true means that it fails here.
    #[must_use]
    pub fn fails(&self, name: &str, stage: &str) -> bool {
        match self.0.as_deref() {
            None => false,
            Some(Inner::Plan(plan)) => plan.lock().unwrap_or_else(PoisonError::into_inner)(name, stage),
            Some(Inner::Crash(points)) => {
                points.iter().for_each(|point| point.pass(name, stage));
                false
            }
        }
    }
}
