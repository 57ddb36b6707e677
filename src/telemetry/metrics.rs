//! The Prometheus metrics of a process. A value that is passed around, not a global, so that tests can have many.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

/// Seconds; from a message inside the process to a call that ran into its timeout.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All metrics of this process; share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sends: IntCounterVec,
    send_seconds: HistogramVec,
    consumes: IntCounterVec,
    consume_seconds: HistogramVec,
    outbox_pending: IntGauge,
    outbox_oldest_age: IntGauge,
    retry_pending: IntGauge,
    clock_skew: IntGauge,
    broker_up: IntGauge,
    degraded: IntGauge,
    deliveries: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    orders: IntCounterVec,
    lag: IntGaugeVec,
    standing: IntGaugeVec,
}

impl Metrics {
    /// A registry of its own, with everything at zero.
    ///
    /// # Errors
    /// None for the fixed names below; prometheus checks them at run time.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            register(&registry, HistogramVec::new(opts, labels)?)
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        Ok(Self {
            sends: counter("rocketmq_producer_send_total", "Messages sent, by result.", &["topic", "result"])?,
            send_seconds: histogram("rocketmq_producer_send_duration_seconds", "One send request.", &["topic"])?,
            consumes: counter(
                "rocketmq_consumer_consume_total",
                "Messages consumed, by outcome.",
                &["topic", "group", "result"],
            )?,
            consume_seconds: histogram(
                "rocketmq_consumer_consume_duration_seconds",
                "One transaction of a lane.",
                &["topic", "group"],
            )?,
            outbox_pending: gauge(
                "ruyi_outbox_pending",
                "Outbox rows not sent yet; of each database 10000 at most are counted.",
            )?,
            outbox_oldest_age: gauge(
                "ruyi_outbox_oldest_age_seconds",
                "Age of the oldest outbox row not sent yet, of those that are counted.",
            )?,
            retry_pending: gauge(
                "ruyi_retry_pending",
                "Messages parked for a retry; of each database 10000 at most are counted.",
            )?,
            clock_skew: gauge(
                "ruyi_clock_skew_seconds",
                "How far the clock of the database is ahead of that of this machine; its time counts.",
            )?,
            broker_up: gauge("ruyi_broker_up", "1 while a broker answers, or where there is none by choice.")?,
            degraded: gauge("ruyi_degraded", "1 while handlers are fed from the outbox for lack of a broker.")?,
            deliveries: counter("ruyi_delivery_total", "Outgoing calls, by result.", &["kind", "result"])?,
            requests: counter("ruyi_http_requests_total", "HTTP requests.", &["route", "method", "status"])?,
            request_seconds: histogram("ruyi_http_request_duration_seconds", "HTTP requests.", &["route"])?,
            orders: counter("ruyi_orders_total", "Orders that reached a status.", &["status"])?,
            standing: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "ruyi_part_stands",
                        "1 for a part that has work and does not go forward; absent while it does.",
                    ),
                    &["part"],
                )?,
            )?,
            lag: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "rocketmq_consumer_lag",
                        "Messages that a group has not consumed; unknown ones are absent.",
                    ),
                    &["topic", "group", "queue"],
                )?,
            )?,
            registry,
        })
    }

    /// `messages` messages of `topic` were sent (or not) by one request that took `took`.
    pub fn sent(&self, topic: &str, result: &str, messages: u64, took: Duration) {
        self.sends.with_label_values(&[topic, result]).inc_by(messages);
        self.send_seconds.with_label_values(&[topic]).observe(took.as_secs_f64());
    }

    /// `messages` messages of `topic` ended as `result` (done, ignored, retry, reject, duplicate) in `group`.
    pub fn consumed(&self, topic: &str, group: &str, result: &str, messages: u64) {
        self.consumes.with_label_values(&[topic, group, result]).inc_by(messages);
    }

    /// The timer of one consuming transaction.
    #[must_use]
    pub fn consume_seconds(&self, topic: &str, group: &str) -> Histogram {
        self.consume_seconds.with_label_values(&[topic, group])
    }

    /// Rows not sent yet, and the age of the oldest in milliseconds.
    pub fn outbox(&self, pending: i64, oldest_age_ms: i64) {
        self.outbox_pending.set(pending);
        self.outbox_oldest_age.set(oldest_age_ms / 1000);
    }

    /// Messages of a queue that a group has not consumed.
    pub fn lag(&self, topic: &str, group: &str, queue: &str, messages: i64) {
        self.lag.with_label_values(&[topic, group, queue]).set(messages);
    }

    /// Before a new reading: what is not in it is unknown.
    pub fn forget_lags(&self) {
        self.lag.reset();
    }

    /// Messages parked for a retry.
    pub fn retry_pending(&self, pending: i64) {
        self.retry_pending.set(pending);
    }

    /// What is added to the machine's time, in milliseconds.
    pub fn clock_skew(&self, skew_ms: i64) {
        self.clock_skew.set(skew_ms / 1000);
    }

    /// How the brokers stand.
    pub fn broker(&self, up: bool, degraded: bool) {
        self.broker_up.set(i64::from(up));
        self.degraded.set(i64::from(degraded));
    }

    /// The parts that stand still now.
    pub fn standing<'p>(&self, parts: impl Iterator<Item = &'p str>) {
        self.standing.reset();
        for part in parts {
            self.standing.with_label_values(&[part]).set(1);
        }
    }

    /// One outgoing call.
    pub fn delivered(&self, kind: &str, result: &str) {
        self.deliveries.with_label_values(&[kind, result]).inc();
    }

    /// One HTTP request; `route` is the pattern (`/orders/{id}`), never the path.
    pub fn request(&self, route: &str, method: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[route, method, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// `count` orders reached `status`.
    pub fn orders(&self, status: &str, count: u64) {
        self.orders.with_label_values(&[status]).inc_by(count);
    }

    /// Adds a metric of the caller's own.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        register(&self.registry, collector)
    }

    /// The text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    /// None in practice: the writer is memory.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
