//! Replays that are killed, on both brokers: each letter is sent at least once, and handled once.

use std::collections::BTreeSet;
use std::process::Stdio;

use ruyi::clock::Clock;
use ruyi::db::sql::{self, Columns};
use ruyi::db::{Db, Options};
use ruyi::fault::Faults;
use ruyi::vals;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::support::dead_letters::{exported, import, letter, paid, properties};
use crate::support::operators::Operator;
use crate::support::servers::child::free_port;
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::waiting::eventually;

const GROUP: &str = "points-consumer-group";

/// A shop's notify role, which has forgotten nothing, and a broker.
struct NotifyRole {
    operator: Operator,
    url: String,
    _notify: Option<Child>,
    // Ends after those who use it.
    _broker: Option<Child>,
    _dir: tempfile::TempDir,
}

fn started(operator: &Operator, args: &[&str]) -> Child {
    operator.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl NotifyRole {
    async fn new(namesrv: Option<String>) -> Self {
        // Beside the folder that the operator has alone.
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("notify.db").display());
        let mut settings = vec![format!("database.url={url}")];
        settings.extend(["mq.embedded.namesrv_port=0", "mq.embedded.broker_port=0"].map(str::to_owned));
        settings.extend(namesrv.iter().map(|namesrv| format!("mq.namesrv={namesrv}")));
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let operator = Operator::with(&settings);
        let migrated = operator.run(&["db", "migrate"]).await;
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let mut broker = None;
        if namesrv.is_none() {
            broker = Some(started(&operator, &["mq", "broker"]));
            let found = operator.data_dir().join("broker.addr");
            eventually("the broker is up", async || found.exists()).await;
        }
        Self { operator, url, _notify: None, _broker: broker, _dir: dir }
    }

    async fn serve(&mut self) {
        let addr = format!("127.0.0.1:{}", free_port());
        self._notify = Some(started(&self.operator, &["serve", "notify", "--listen", &addr]));
        let url = format!("http://{addr}/readyz");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        eventually("notify is ready", async || {
            client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// What the group has done: points given, letters handled.
    async fn handled(&self) -> (i64, i64) {
        let options =
            Options { url: self.url.clone(), max_connections: 1, clock: Clock::system(), faults: Faults::none() };
        let db = Db::open(&options).await.unwrap();
        let one = async |text: &'static str| {
            let row = sql::fetch_one(&mut db.read().await.unwrap(), text, vals![]).await.unwrap();
            row.unwrap().int(0).unwrap()
        };
        let points = one("SELECT COALESCE(SUM(balance), 0) FROM user_points").await;
        let done = "SELECT COUNT(*) FROM message_process_log WHERE consumer_group = 'points-consumer-group'";
        let done = (points, one(done).await);
        db.close().await;
        done
    }

    /// Replays, and kills it when it has sent about half.
    async fn replay_killed(&self, total: usize) {
        let args = ["mq", "dlq", "replay", GROUP, "--yes", "--rps", "150", "--ramp", "0s", "--max-fail", "100"];
        let mut child = started(&self.operator, &args);
        let state = self.operator.data_dir().join("dlq").join(format!("{GROUP}.jsonl"));
        eventually("half of them are sent", async || {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it was killed");
            std::fs::read_to_string(&state).unwrap_or_default().matches("replayed").count() >= total / 2
        })
        .await;
        // SIGKILL.
        child.kill().await.unwrap();
    }

    async fn replay(&self) -> Value {
        let args = ["mq", "dlq", "replay", GROUP, "--yes", "--rps", "2000", "--ramp", "0s", "--watch", "0s"];
        self.operator.items(&args).await.remove(0)
    }
}

async fn killed_half_way(mut notify: NotifyRole) {
    let total = 400;
    notify.serve().await;
    let lines: String = (0..total).map(|number| letter(GROUP, number, &paid(number))).collect();
    import(&notify.operator, &lines).await;
    notify.replay_killed(total).await;
    let rest = notify.replay().await;
    let (already, sent) = (rest["already"].as_u64().unwrap(), rest["sent"].as_u64().unwrap());
    assert_eq!(already + sent, total as u64, "{rest}");
    assert!(already >= total as u64 / 2 && sent > 0, "{rest}");
    let all = (i64::try_from(total).unwrap(), i64::try_from(total).unwrap());
    eventually("all are handled", async || notify.handled().await == all).await;

    // Somebody else's replay knows nothing of this one: all are sent once more, and nothing happens twice.
    std::fs::remove_file(notify.operator.data_dir().join("dlq").join(format!("{GROUP}.jsonl"))).unwrap();
    let again = notify.replay().await;
    assert_eq!(again["sent"], total, "{again}");
    // The last one that is sent is handled last: queues keep their order, and there are four at most.
    let probes: Vec<usize> = (total..total + 16).collect();
    let lines: String = probes.iter().map(|number| letter(GROUP, *number, &paid(*number))).collect();
    import(&notify.operator, &lines).await;
    notify.replay().await;
    let wanted = i64::try_from(total + probes.len()).unwrap();
    eventually("the last ones are handled", async || notify.handled().await.1 >= wanted).await;
    assert_eq!(notify.handled().await, (wanted, wanted));
    assert_eq!(exported(&notify.operator, GROUP).await.len(), total + probes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_killed_half_way_goes_on_with_rocketmq() {
    let Some(cluster) = Cluster::start(ClusterPlan::default()).await else { return };
    killed_half_way(NotifyRole::new(Some(cluster.namesrv())).await).await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_killed_half_way_goes_on_with_embedded_broker() {
    killed_half_way(NotifyRole::new(None).await).await;
}

/// Looks, exports, imports, discards and replays where the broker is ruyi's own; what dies again is told.
#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_dead_again_say_how_often_on_embedded_broker() {
    let mut notify = NotifyRole::new(None).await;
    notify.serve().await;
    // Bodies that the group rejects: it cannot read them.
    let lines: String = (0..30).map(|number| letter(GROUP, number, r#"{"payAmount":"none"}"#)).collect();
    import(&notify.operator, &lines).await;
    let operator = &notify.operator;
    let list = operator.items(&["mq", "dlq", "list"]).await;
    assert_eq!((list.len(), &list[0]["group"], &list[0]["depth"]), (1, &json!(GROUP), &json!(30)));
    let letters = exported(operator, GROUP).await;
    let shown = operator.items(&["mq", "dlq", "show", GROUP, letters[0]["id"].as_str().unwrap()]).await;
    assert!(shown[0]["fault"].as_str().is_some_and(|fault| fault.contains("payAmount")), "{shown:?}");
    let groups = operator.items(&["mq", "dlq", "group", GROUP]).await;
    assert_eq!((groups.len(), &groups[0]["count"]), (1, &json!(30)));

    let args = ["mq", "dlq", "replay", GROUP, "--yes", "--rps", "1000", "--ramp", "0s", "--watch", "60s"];
    let (code, items, stderr) = operator.items_and_code(&args).await;
    assert_eq!((code, &items[0]["sent"]), (1, &json!(30)), "{items:?} {stderr}");
    assert!(items[0]["stopped"].as_str().unwrap().contains("failed again"), "{items:?}");
    eventually("all of them died again", async || exported(operator, GROUP).await.len() == 60).await;
    let again = exported(operator, GROUP).await;
    for letter in &again[again.len() - 1..] {
        let all = properties(letter);
        assert_eq!(
            (all["dlqReplays"].as_str(), all["dlqOriginTopic"].as_str()),
            ("1", "PAID_ORDER_SUCCESS"),
            "{all:?}"
        );
        assert!(!all.contains_key("dlqReplayId"), "{all:?}");
        assert!(all["dlqReason"].contains("PAID_ORDER_SUCCESS"), "{all:?}");
    }
    // Each replay had a name of its own.
    let mut names = BTreeSet::new();
    let sent = operator.items(&["mq", "messages", "query", "PAID_ORDER_SUCCESS"]).await;
    for row in &sent[..2] {
        let place = row["id"].as_str().unwrap();
        let replay = operator.items(&["mq", "messages", "get", "PAID_ORDER_SUCCESS", place]).await.remove(0);
        names.insert(replay["properties"]["dlqReplayId"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 2, "{names:?}");
    let (code, items, _) =
        operator.items_and_code(&["mq", "dlq", "replay", GROUP, "--max-replays", "1", "--dry-run"]).await;
    assert_eq!((code, &items[0]["refusedReplays"], &items[0]["already"]), (1, &json!(30), &json!(30)), "{items:?}");
    let args = ["mq", "dlq", "discard", GROUP, "--because", "cannot be read", "--reason", "a test", "--yes"];
    assert_eq!(operator.items(&args).await[0]["discarded"], 30);
    let list = operator.items(&["mq", "dlq", "list"]).await;
    assert_eq!(list.iter().find(|item| item["group"] == GROUP).unwrap()["open"], 0);
}
