//! Dead letters that cannot have the bodies of their messages: they say where these are, and a replay fetches them.

use std::collections::BTreeMap;

use ruyi::db::migrate;
use ruyi::db::sql::{self, Columns};
use ruyi::mq::message::{Delay, Outgoing};
use ruyi::vals;
use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::dead_letters::{exported, import, properties};
use crate::support::operators::Operator;
use crate::support::servers::mariadb::MariaDb;
use crate::support::servers::remoting::ask;
use crate::support::servers::rocketmq::{Cluster, ClusterPlan};
use crate::support::serving::Serving;
use crate::support::waiting::eventually;

const GROUP: &str = "points-consumer-group";
const TOPIC: &str = "POINTS_GRANT";
/// RocketMQ's request to store a message.
const SEND_MESSAGE: u32 = 10;
/// No byte, compressed with zlib.
const NOTHING: [u8; 8] = [0x78, 0x9c, 0x03, 0, 0, 0, 0, 1];

/// A POINTS_GRANT of five points, or one that nobody can read, with so many bytes of a note.
fn grant(id: &str, points: &Value, bytes: usize) -> Outgoing {
    let body = json!({ "eventId": id, "userId": "1001", "points": points, "note": "x".repeat(bytes) });
    Outgoing {
        topic: TOPIC.to_owned(),
        tag: TOPIC.to_owned(),
        key: id.to_owned(),
        body: body.to_string().into(),
        properties: vec![("eventId".to_owned(), id.to_owned())],
        delay: Delay::None,
    }
}

/// The cluster, whose broker takes bodies of 256 KiB as they come to it: compressed ones may be much larger.
struct Letters {
    cluster: Cluster,
    mariadb: MariaDb,
    url: String,
    bench: BrokerBench,
    operator: Operator,
}

impl Letters {
    async fn start() -> Option<Self> {
        let mariadb = MariaDb::start_with("--max-allowed-packet=1M")?;
        let cluster = Cluster::start(ClusterPlan::default().broker_conf("maxMessageSize=262144\n")).await?;
        let url = mariadb.create("ruyi").await;
        migrate::run(&url).await.unwrap();
        let bench = BrokerBench::at(cluster.namesrv()).await;
        let operator = Operator::new(&cluster.namesrv());
        Some(Self { cluster, mariadb, url, bench, operator })
    }

    async fn serve(&self) -> Serving {
        let (namesrv, url) = (format!("mq.namesrv={}", self.cluster.namesrv()), format!("database.url={}", self.url));
        // A letter goes as large as it is.
        Serving::start(&["mq.enabled=true", &namesrv, &url, "mq.producer.compress_over=100MiB"]).await
    }

    async fn publish(&self, message: Outgoing) {
        let sent = async || self.bench.mq.publish(std::slice::from_ref(&message)).await.remove(0).is_ok();
        eventually("a message is sent", sent).await;
    }

    /// A message with nothing in it: a broker takes it where it is compressed, which nothing is as well.
    async fn publish_nothing(&self, id: &str) {
        let properties = format!("KEYS\u{1}{id}\u{2}TAGS\u{1}{TOPIC}\u{2}eventId\u{1}{id}\u{2}");
        let fields = json!({
            "producerGroup": "careless", "topic": TOPIC, "defaultTopic": "TBW102", "defaultTopicQueueNums": "4",
            "queueId": "0", "sysFlag": "1", "bornTimestamp": "1", "flag": "0", "properties": properties,
            "reconsumeTimes": "0", "unitMode": "false", "batch": "false", "maxReconsumeTimes": "16",
        });
        let (answer, _) = ask(&self.cluster.broker_addr("a"), SEND_MESSAGE, fields, &NOTHING).await.unwrap();
        assert_eq!(answer["code"], 0, "{answer}");
    }

    /// The letters of the group, by the keys of their messages, as soon as there are so many.
    async fn listed(&self, count: usize) -> BTreeMap<String, Value> {
        let browse = ["mq", "dlq", "browse", GROUP];
        let mut rows = Vec::new();
        eventually("the letters are listed", async || {
            rows = self.operator.items_and_code(&browse).await.1;
            rows.len() == count
        })
        .await;
        rows.into_iter().map(|row| (row["key"].as_str().unwrap().to_owned(), row)).collect()
    }

    async fn replay(&self, letter: &Value) -> (i32, Value, String) {
        let id = letter["id"].as_str().unwrap();
        let args = ["mq", "dlq", "replay", GROUP, "--id", id, "--yes", "--watch", "0s"];
        let (code, mut items, stderr) = self.operator.items_and_code(&args).await;
        (code, items.remove(0), stderr)
    }
}

async fn outcome(serving: &Serving, id: &str) -> Option<i64> {
    let text = "SELECT outcome FROM message_process_log WHERE consumer_group = ? AND message_id = ?";
    let row = sql::fetch_one(&mut serving.db().read().await.unwrap(), text, vals![GROUP, id]).await.unwrap();
    row.map(|row| row.int(0).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_without_its_body_is_shown_and_replayed() {
    let Some(letters) = Letters::start().await else { return };
    let serving = letters.serve().await;
    // More than a row may have, more than the broker takes of a letter, and nothing at all.
    letters.publish(grant("large", &json!(5), 1_500_000)).await;
    letters.publish(grant("unread", &json!("many"), 400_000)).await;
    letters.publish_nothing("empty").await;
    let listed = letters.listed(3).await;
    assert_eq!(listed.keys().map(String::as_str).collect::<Vec<_>>(), ["empty", "large", "unread"]);
    let depth = letters.operator.items(&["mq", "dlq", "list"]).await;
    assert_eq!((&depth[0]["group"], &depth[0]["depth"]), (&json!(GROUP), &json!(3)));
    for (key, bytes, why) in [("large", 1_500_000, "max_allowed_packet"), ("unread", 400_000, "refused it (13)")] {
        let show = ["mq", "dlq", "show", GROUP, listed[key]["id"].as_str().unwrap()];
        let shown = letters.operator.items(&show).await.remove(0);
        let body = &shown["body"];
        let place = format!("a:{}:{} of {TOPIC}", body["queue"], body["offset"]);
        assert_eq!((shown["bodyAt"].as_str(), &shown["eventId"]), (Some(place.as_str()), &json!(key)), "{shown}");
        assert!(body["bytes"].as_u64().unwrap() > bytes && body["reason"].as_str().unwrap().contains(why), "{shown}");
        assert_eq!((body["sha256"].as_str().map(str::len), &shown["fault"]), (Some(64), &Value::Null), "{shown}");
    }
    let said = letters
        .operator
        .refuses(&["mq", "dlq", "edit", GROUP, listed["large"]["id"].as_str().unwrap(), "--field", "a=1", "--yes"], 1)
        .await;
    assert!(said.contains("has no body") && said.contains("--body"), "{said}");
    // Nothing is there to be sent.
    let (code, replayed, stderr) = letters.replay(&listed["empty"]).await;
    assert_eq!((code, &replayed["sent"], &replayed["failed"]), (1, &json!(0), &json!(1)), "{stderr}");
    assert!(stderr.contains("its message has no body"), "{stderr}");
    // The one that nobody can read goes as it was, and dies again.
    let (_, replayed, stderr) = letters.replay(&listed["unread"]).await;
    assert_eq!((&replayed["sent"], &replayed["failed"]), (&json!(1), &json!(0)), "{stderr}");
    letters.listed(3).await;
    serving.stop().await;

    // The database takes it now.
    let mut conn = letters.mariadb.connect("mysql").await;
    sql::execute(&mut conn, "SET GLOBAL max_allowed_packet = 67108864", vec![]).await.unwrap();
    drop(conn);
    let serving = letters.serve().await;
    let (code, replayed, stderr) = letters.replay(&listed["large"]).await;
    assert_eq!((code, &replayed["sent"], &replayed["already"]), (0, &json!(1), &json!(0)), "{stderr}");
    eventually("the large one is handled", async || outcome(&serving, "large").await == Some(0)).await;
    assert_eq!(serving.get("/points/1001").await["balance"], 5);
    serving.stop().await;

    // Of a letter whose message is gone nothing counts as done.
    let all = exported(&letters.operator, GROUP).await;
    let mut gone = all.into_iter().find(|letter| letter["key"] == "large").unwrap();
    assert!(properties(&gone).contains_key("dlqBodyLeft"), "{gone}");
    gone["body"] = json!(gone["body"].as_str().unwrap().replace("\"offset\":", "\"offset\":99"));
    // Nor of one whose broker is away: its message may still be there.
    let mut away = gone.clone();
    away["key"] = json!("away");
    away["body"] = json!(away["body"].as_str().unwrap().replace(r#""broker":"a""#, r#""broker":"z""#));
    import(&letters.operator, &format!("{gone}\n{away}\n")).await;
    let listed = letters.listed(4).await;
    for (key, why) in [("large", "any more, and the letter has no body"), ("away", "no name server knows now")] {
        let (code, replayed, stderr) = letters.replay(&listed[key]).await;
        assert_eq!((code, &replayed["sent"], &replayed["failed"]), (1, &json!(0), &json!(1)), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    }
    letters.bench.stop().await;
}
