//! `GET /scale`: how far groups are behind and how many instances they want, for whatever scales this process; and the
//! same as the metric `rocketmq_consumer_lag`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Backlog;
use crate::http::Scale;
use crate::mq::Broker;
use crate::mq::backlog::Reading;
use crate::mq::rocketmq::RocketMq;
use crate::telemetry::Metrics;

/// Askers within this time get the same reading.
const FRESH: Duration = Duration::from_secs(5);

/// Reads the lag of some groups, not more often than is useful.
pub struct Scaling {
    cluster: Option<RocketMq>,
    groups: Vec<String>,
    settings: Backlog,
    metrics: Arc<Metrics>,
    last: Mutex<Option<(Instant, Arc<Vec<Reading>>)>>,
}

/// What `/scale` says of a group; null is unknown.
#[derive(Debug, Serialize)]
struct View {
    lag: Option<i64>,
    wanted: Option<i64>,
}

impl Scaling {
    /// For `groups` on `cluster`; without one everything is unknown.
    #[must_use]
    pub fn new(cluster: Option<RocketMq>, groups: Vec<String>, settings: Backlog, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { cluster, groups, settings, metrics, last: Mutex::default() })
    }

    /// For `groups` of a process whose broker this is.
    #[must_use]
    pub(super) fn on(broker: &Broker, groups: Vec<String>, settings: Backlog, metrics: Arc<Metrics>) -> Arc<Self> {
        let cluster = match broker {
            Broker::Cluster(cluster) => Some(cluster.mq().clone()),
            Broker::Local(_) => None,
        };
        Self::new(cluster, groups, settings, metrics)
    }

    /// The groups' readings, of now or of a moment ago.
    pub async fn readings(&self) -> Arc<Vec<Reading>> {
        let mut last = self.last.lock().await;
        if let Some((_, readings)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Arc::clone(readings);
        }
        let mut readings = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let reading = match &self.cluster {
                Some(cluster) => Reading::of(cluster, group).await,
                None => Reading { group: group.clone(), queues: Vec::new() },
            };
            readings.push(reading);
        }
        self.show(&readings);
        let readings = Arc::new(readings);
        *last = Some((Instant::now(), Arc::clone(&readings)));
        readings
    }

    fn show(&self, readings: &[Reading]) {
        self.metrics.forget_lags();
        for reading in readings {
            for (queue, standing) in &reading.queues {
                // What is unknown is not there.
                if let Some(lag) = standing.lag() {
                    let name = format!("{}-{}", queue.broker, queue.queue);
                    self.metrics.lag(&queue.topic, &reading.group, &name, lag);
                }
            }
        }
    }

    /// What `/scale` answers.
    #[must_use]
    pub fn answer(self: &Arc<Self>) -> Scale {
        let scaling = Arc::clone(self);
        Arc::new(move || {
            let scaling = Arc::clone(&scaling);
            Box::pin(async move {
                let view = |reading: &Reading| {
                    let verdict = reading.judge(&scaling.settings.limit(&reading.group));
                    (reading.group.clone(), View { lag: verdict.lag, wanted: verdict.wanted })
                };
                let views: BTreeMap<String, View> = scaling.readings().await.iter().map(view).collect();
                serde_json::to_value(views).unwrap_or_default()
            })
        })
    }

    /// Keeps the metric up to date until `token` is cancelled.
    pub(super) async fn run(self: Arc<Self>, token: CancellationToken) {
        if self.cluster.is_none() {
            return;
        }
        while token.run_until_cancelled(tokio::time::sleep(self.settings.interval.duration())).await.is_some() {
            token.run_until_cancelled(self.readings()).await;
        }
    }
}
