//! `ruyi mq topics`.

use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::Java;
use crate::support::servers::rocketmq::{ACL, Cluster, ClusterPlan, apache};
use crate::support::servers::unique;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_java_services_are_listed_on_rocketmq() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let topic = unique("JAVA_TOPIC");
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {topic} 3"), format!("send {topic} 5 order")]);
    services.until(&format!("sent {topic}")).await;
    let operator = Operator::new(&apache.namesrv());
    let items = operator.items(&["mq", "topics", "list", "--oldest"]).await;
    assert!(items.iter().all(|item| !["a", "ruyi-test", "TBW102"].contains(&item["topic"].as_str().unwrap())));
    let own = items.into_iter().find(|item| item["topic"] == topic.as_str()).unwrap();
    insta::assert_json_snapshot!("topics_list", masked(own, &["topic", "oldest", "lastStored", "perSecond"]));
    let all = operator.items(&["mq", "topics", "list", "--all"]).await;
    assert!(all.iter().any(|item| item["topic"] == "TBW102"), "{all:?}");
    let queues = operator.items(&["mq", "topics", "show", &topic]).await;
    assert_eq!(queues.iter().map(|queue| queue["messages"].as_i64().unwrap()).sum::<i64>(), 5);
    assert!(queues.iter().all(|queue| queue["oldest"].is_string() == (queue["messages"] != 0)), "{queues:?}");
    let full = queues.iter().find(|queue| queue["messages"] != 0).unwrap();
    let queue = masked(full.clone(), &["addr", "queue", "max", "messages", "oldest", "lastStored"]);
    insta::assert_json_snapshot!("topics_show", queue);
    made_changed_and_removed(&operator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_the_embedded_broker() {
    let bench = BrokerBench::embedded().await;
    let operator = Operator::new(&bench.namesrv);
    bench.mq.ensure_topics(&["ORDER_CREATED".to_owned()], 3).await.unwrap();
    bench.send("ORDER_CREATED", "order", 5).await;
    let items = operator.items(&["mq", "topics", "list", "--oldest"]).await;
    assert_eq!(items.len(), 1, "{items:?}");
    let fields = ["queues", "messages", "brokers", "type", "permission"].map(|name| items[0][name].clone());
    assert_eq!(fields, [json!(3), json!(5), json!(1), json!("NORMAL"), json!("readWrite")]);
    assert!(items[0]["oldest"].is_string() && items[0]["lastStored"].is_string(), "{items:?}");
    let queues = operator.items(&["mq", "topics", "show", "ORDER_CREATED"]).await;
    assert_eq!(queues.iter().map(|queue| queue["messages"].as_i64().unwrap()).sum::<i64>(), 5);
    made_changed_and_removed(&operator).await;
    bench.stop().await;
}

/// A topic's life, on whichever broker.
async fn made_changed_and_removed(operator: &Operator) {
    let topic = unique("MADE_BY_HAND");
    let run = |command: &'static str, more: &[&'static str]| {
        let args = [&["mq", "topics", command, topic.as_str()][..], more].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let items = async |args: Vec<String>| operator.items(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let refuses = async |args: Vec<String>, code| {
        operator.refuses(&args.iter().map(String::as_str).collect::<Vec<_>>(), code).await
    };
    let said = refuses(run("create", &[]), 2).await;
    assert!(said.contains("--yes"), "{said}");
    let shown = items(run("create", &["--queues", "2", "--type", "fifo", "--dry-run"])).await;
    assert_eq!((&shown[0]["action"], &shown[0]["done"]), (&json!("create"), &json!(false)));
    let said = refuses(run("show", &[]), 1).await;
    assert!(said.contains(&format!("there is no topic {topic}")) && said.contains("help: "), "{said}");
    let made = items(run("create", &["--queues", "2", "--type", "fifo", "--yes", "--reason", "test"])).await;
    assert_eq!((&made[0]["action"], &made[0]["done"]), (&json!("create"), &json!(true)));
    let again = items(run("create", &["--yes"])).await;
    assert_eq!((&again[0]["action"], &again[0]["queues"]), (&json!("exists"), &json!(2)));
    let other = run("create", &["--queues", "7", "--yes"]);
    let (code, other, said) = operator.items_and_code(&other.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(code == 1 && other[0]["action"] == "exists" && said.contains("with 2 queues"), "{said}");
    refuses(run("update", &["--yes"]), 2).await;
    let changed = items(run("update", &["--queues", "3", "--permission", "read", "--yes"])).await;
    assert_eq!((&changed[0]["action"], &changed[0]["done"]), (&json!("update"), &json!(true)));
    let same = items(run("update", &["--queues", "3", "--permission", "read"])).await;
    assert_eq!(same[0]["action"], "unchanged");
    let queues = items(run("show", &[])).await;
    let is = |queue: &Value| queue["type"] == "FIFO" && queue["permission"] == "read" && queue["oldest"].is_null();
    assert!(queues.len() == 3 && queues.iter().all(is), "{queues:?}");
    refuses(run("update", &["--queues", "3", "--broker", "nobody", "--yes"]), 1).await;
    let said = refuses(run("update", &["--queues", "1", "--yes"]), 1).await;
    assert!(said.contains("0 messages lie in the queues that go away") && said.contains("--force"), "{said}");
    let fewer = items(run("update", &["--queues", "1", "--force", "--yes"])).await;
    assert_eq!((&fewer[0]["queues"], &fewer[0]["done"]), (&json!(1), &json!(true)));
    let said = refuses(run("delete", &[]), 2).await;
    assert!(said.contains("with 0 messages"), "{said}");
    let gone = items(run("delete", &["--yes"])).await;
    assert_eq!((&gone[0]["action"], &gone[0]["done"]), (&json!("delete"), &json!(true)));
    refuses(run("delete", &["--yes"]), 1).await;
    refuses(vec!["mq".into(), "topics".into(), "create".into(), "a.b".into(), "--yes".into()], 2).await;
    let journal = std::fs::read_to_string(operator.data_dir().join("journal.jsonl")).unwrap();
    let commands: Vec<String> = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["command"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(commands, ["mq topics create", "mq topics update", "mq topics update", "mq topics delete"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_it_says_so() {
    let operator = Operator::new("127.0.0.1:1");
    let said = operator.refuses(&["mq", "topics", "list"], 1).await;
    assert!(said.contains("127.0.0.1:1") && said.contains("help: "), "{said}");
    // A name server, but not one broker that answers.
    let Some(cluster) = Cluster::start(ClusterPlan::default().broker_conf(ACL)).await else { return };
    let namesrv = format!("mq.namesrv={}", cluster.namesrv());
    let stranger = Operator::with(&[&namesrv, "mq.access_key=ruyi", "mq.secret_key=wrong"]);
    for args in [
        &["mq", "topics", "list"][..],
        &["mq", "topics", "create", "T", "--yes"],
        &["mq", "topics", "plan"],
        &["mq", "topics", "apply", "--yes"],
        &["mq", "offsets", "list"],
        &["mq", "offsets", "show", "some-group"],
        &["mq", "offsets", "reset", "some-group", "--topic", "T", "--to", "end", "--yes"],
    ] {
        let said = stranger.refuses(args, 1).await;
        assert!(said.contains("the cluster denies it") && said.contains("mq.access_key"), "{args:?}: {said}");
    }
    let operator = Operator::with(&[&namesrv, "mq.access_key=ruyi", "mq.secret_key=right-secret"]);
    let made = operator.items(&["mq", "topics", "create", "T", "--yes"]).await;
    assert_eq!(made[0]["done"], true);
    cluster.kill_broker("a");
    for args in [
        &["mq", "topics", "list"][..],
        &["mq", "topics", "create", "U", "--yes"],
        &["mq", "offsets", "list"],
        &["mq", "offsets", "snapshot", "some-group"],
    ] {
        let said = operator.refuses(args, 1).await;
        assert!(said.contains("know no broker") || said.contains("none answers"), "{args:?}: {said}");
    }
}
