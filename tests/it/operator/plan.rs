//! `ruyi mq topics plan` and `apply`.

use ruyi::domain::event::{Group, Kind};
use serde_json::{Value, json};

use crate::support::broker_bench::BrokerBench;
use crate::support::operators::{Operator, masked};
use crate::support::servers::java::Java;
use crate::support::servers::rocketmq::apache;
use crate::support::servers::unique;

/// (name, what, action, done) of each row.
fn told(items: &[Value]) -> Vec<(&str, &str, &str, bool)> {
    let rows = items.iter().map(|item| {
        let field = |name: &str| item[name].as_str().unwrap();
        (field("name"), field("what"), field("action"), item["done"].as_bool().unwrap())
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_of_java_services_becomes_what_file_says() {
    let (Some(java), Some(apache)) = (Java::compile(), apache().await) else { return };
    let (orders, fresh, old) = (unique("PLAN_ORDERS"), unique("PLAN_FRESH"), unique("PLAN_OLD"));
    let (group, quiet, unnamed) = (unique("plan-billing"), unique("plan-quiet"), unique("plan-unnamed"));
    let mut services = java.start("Operate", &[&apache.namesrv()]);
    services.give(&[format!("topic {orders} 2"), format!("topic {old} 2")]);
    // The file names one of these groups. Whose members differ otherwise is not asked for, here or by other tests.
    for group in [&group, &unnamed] {
        services.give(&[format!("consume {group} {orders} A 1"), format!("consume {group} {orders} B 2")]);
        services.until(&format!("up {group} 2")).await;
    }
    let operator = Operator::new(&apache.namesrv());
    let file = operator.dir().join("wanted.toml");
    let text = format!(
        "[topics.{orders}]\nqueues = 4\ntype = \"fifo\"\n[topics.{fresh}]\nqueues = 3\ntype = \"delay\"\n\
         [topics.{old}]\nabsent = true\n[groups.{group}.subscriptions]\n{orders} = \"A\"\n[groups.{quiet}]\n"
    );
    std::fs::write(&file, &text).unwrap();
    let file = file.display().to_string();
    let plan = ["mq", "topics", "plan", "--file", &file, "--no-catalogue"];
    let apply = ["mq", "topics", "apply", "--file", &file, "--no-catalogue"];

    let items = operator.items(&plan).await;
    let mut expected = [
        (orders.as_str(), "queues", "addQueues", false),
        (&orders, "type", "setType", false),
        (fresh.as_str(), "topic", "create", false),
        (old.as_str(), "topic", "delete", false),
        (group.as_str(), "subscription", "fixMember", false),
        (quiet.as_str(), "group", "create", false),
    ];
    expected.sort_unstable();
    let mut seen = told(&items);
    seen.sort_unstable();
    assert_eq!(seen, expected);
    let odd = items.iter().find(|item| item["what"] == "subscription").unwrap();
    assert!(odd["place"].as_str().unwrap().contains(&format!("{group}-2")), "{odd}");
    assert_eq!((&odd["is"], &odd["wanted"]), (&json!(format!("{orders} B")), &json!(format!("{orders} A"))));
    let queues = items.iter().find(|item| item["what"] == "queues").unwrap();
    insta::assert_json_snapshot!("topics_plan", masked(queues.clone(), &["name"]));
    let (code, _, _) = operator.items_and_code(&[&plan[..], &["--exit-code"]].concat()).await;
    assert_eq!(code, 1);

    // Nobody to ask; then what loses nothing; then the rest.
    operator.refuses(&apply, 2).await;
    let (code, items, said) = operator.items_and_code(&[&apply[..], &["--yes"]].concat()).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--force does it") && said.contains("only whoever runs this member"), "{said}");
    for (name, what, action, done) in told(&items).into_iter().filter(|row| row.0 != group) {
        assert_eq!(done || what == "subscription", !["setType", "delete"].contains(&action), "{name} {what}");
    }
    let shown = operator.items(&["mq", "topics", "show", &orders]).await;
    assert_eq!((shown.len(), &shown[0]["type"]), (4, &json!("NORMAL")));
    let shown = operator.items(&["mq", "topics", "show", &fresh]).await;
    assert_eq!((shown.len(), &shown[0]["type"]), (3, &json!("DELAY")));
    services.give(&[format!("stop {group} 2")]);
    services.until(&format!("stopped {group} 2")).await;
    let (_, items, said) = operator.items_and_code(&[&apply[..], &["--yes", "--force"]].concat()).await;
    let mut seen = told(&items);
    seen.retain(|row| row.1 != "subscription");
    seen.sort_unstable();
    let mut expected = [(orders.as_str(), "type", "setType", true), (old.as_str(), "topic", "delete", true)];
    expected.sort_unstable();
    assert_eq!(seen, expected, "{said}");
    let shown = operator.items(&["mq", "topics", "show", &orders]).await;
    assert_eq!((shown.len(), &shown[0]["type"]), (4, &json!("FIFO")));
    operator.refuses(&["mq", "topics", "show", &old], 1).await;
    // Again: nothing is left to do.
    let (code, items, said) = operator.items_and_code(&[&plan[..], &["--exit-code"]].concat()).await;
    assert_eq!((code, items), (0, vec![]), "{said}");

    // One that the broker refuses does not stop the others.
    let another = unique("PLAN_ANOTHER");
    std::fs::write(&file, format!("[topics.SELF_TEST_TOPIC]\nqueues = 9\n[topics.{another}]\n")).unwrap();
    let (code, items, said) = operator.items_and_code(&[&apply[..], &["--yes"]].concat()).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("queues of SELF_TEST_TOPIC on a: "), "{said}");
    let rows = told(&items);
    assert!(rows.contains(&("SELF_TEST_TOPIC", "queues", "addQueues", false)), "{rows:?}");
    assert!(rows.contains(&(another.as_str(), "topic", "create", true)), "{rows:?}");
    std::fs::write(&file, "[topics.a]\nqueue = 9\n").unwrap();
    let said = operator.refuses(&plan, 2).await;
    assert!(said.contains("unknown field `queue`") && said.contains("help: "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalogue_comes_to_an_empty_broker() {
    let bench = BrokerBench::embedded().await;
    let alias = "mq.topics.PAYMENT_SUCCESS=payment_success_topic:pay";
    let operator = Operator::with(&[&format!("mq.namesrv={}", bench.namesrv), alias, "mq.queues=3"]);
    let missing = operator.items(&["mq", "topics", "plan"]).await;
    assert_eq!(missing.len(), Kind::ALL.len() + Group::ALL.len(), "{missing:?}");
    assert!(missing.iter().any(|item| item["name"] == "payment_success_topic"));
    let shown = operator.items(&["mq", "topics", "apply", "--dry-run"]).await;
    assert_eq!(shown, missing);
    let done = operator.items(&["mq", "topics", "apply", "--yes"]).await;
    assert!(done.iter().all(|item| item["done"] == true), "{done:?}");
    assert_eq!(operator.items(&["mq", "topics", "plan", "--exit-code"]).await, Vec::<Value>::new());
    assert_eq!(operator.items(&["mq", "topics", "apply", "--yes"]).await, Vec::<Value>::new());
    let shown = operator.items(&["mq", "topics", "show", "ORDER_CREATED"]).await;
    assert_eq!(shown.len(), 3);
    // A member that does what the catalogue says is no difference.
    let consumer = bench.mq.subscribe("callback-submit-consumer-group", &["CALLBACK_SUBMIT".to_owned()]).await.unwrap();
    assert_eq!(operator.items(&["mq", "topics", "plan"]).await, Vec::<Value>::new());
    consumer.shutdown().await;
    bench.stop().await;
}
