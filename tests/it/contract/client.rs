//! The client subcommands and the driver of the demo, against a stand-in for the roles.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::time::Duration;

use ruyi::client::Api;
use ruyi::cmd::demo::cases::{Cases, End, coupons, products};
use ruyi::cmd::demo::drive::{Driven, Options, drive, set_up, set_up_coupons};
use ruyi::cmd::demo::pulse::Pulse;
use ruyi::cmd::demo::{COUPONS, ORDERS, PRODUCTS};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{fake_api, program};

struct Run {
    code: i32,
    out: Vec<Value>,
    err: String,
}

fn spawn(base: &str, args: &[&str]) -> Child {
    program::command(base, args).spawn().unwrap()
}

/// Runs ruyi to its end with this input.
async fn ruyi(base: &str, args: &[&str], input: &str) -> Run {
    let output = program::ruyi(base, args, input).await;
    let out = String::from_utf8(output.stdout).unwrap();
    let value = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    Run {
        code: output.status.code().unwrap(),
        out: out.lines().map(value).collect(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn lines(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().map(|value| format!("{value}\n")).collect()
}

fn order(user: usize) -> Value {
    json!({"userId": user.to_string(), "items": [{"sku": "TEA", "quantity": 1}], "case": "normal", "expect": "SIGNED"})
}

fn ids(run: &Run) -> Vec<&str> {
    run.out.iter().map(|row| row["orderId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_keeps_the_order_of_its_input() {
    let (base, fake) = fake_api::start().await;
    let created = ruyi(&base, &["order", "create", "-"], &lines((1..=150).map(order))).await;
    assert_eq!((created.code, created.err.as_str(), created.out.len()), (0, "", 150));
    let paid = ruyi(&base, &["payment", "pay", "-", "--concurrency", "8"], &lines(created.out.clone())).await;
    assert_eq!((paid.code, paid.err.as_str()), (0, ""));
    assert_eq!(ids(&paid), ids(&created));
    let signed = ruyi(&base, &["order", "wait", "--status", "signed", "-"], &lines(paid.out.clone())).await;
    assert_eq!((signed.code, signed.err.as_str()), (0, ""));
    assert_eq!(ids(&signed), ids(&created));
    // Every order is the one of its line.
    let users: Vec<usize> = signed.out.iter().map(|row| row["userId"].as_str().unwrap().parse().unwrap()).collect();
    assert!(users.into_iter().eq(1..=150));
    assert!(signed.out.iter().all(|row| row["outcome"] == "SIGNED"));
    assert_eq!(fake.lock().unwrap().placed(), 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_result_leaves_before_the_input_ends() {
    let (base, _world) = fake_api::start().await;
    let mut child = spawn(&base, &["order", "create", "-"]);
    tokio::task::spawn_blocking(move || {
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        for user in 1..=3 {
            writeln!(stdin, "{}", order(user)).unwrap();
            let row: Value = serde_json::from_str(&stdout.next().unwrap().unwrap()).unwrap();
            assert!(row["orderId"].is_string());
        }
        drop(stdin);
        assert!(stdout.next().is_none());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_line_is_named_while_the_others_go_on() {
    let (base, fake) = fake_api::start().await;
    let none = json!({"userId": "2", "items": [{"sku": "TEA", "quantity": 0}]});
    let input = format!("{}\n{{\"userId\":\n\n{none}\n[1]\n{}\n", order(1), order(2));
    let run = ruyi(&base, &["order", "create", "-"], &input).await;
    assert_eq!((run.code, run.out.len()), (1, 2));
    let errors: Vec<&str> = run.err.lines().collect();
    assert_eq!(errors.len(), 4, "{}", run.err);
    assert!(errors[0].starts_with("error: item 2: the line is not JSON: "), "{}", run.err);
    assert_eq!(errors[1], "error: item 4: 422 invalid: no (items[0].quantity: 1 to 9999)");
    assert!(errors[2].starts_with("error: item 5: "), "{}", run.err);
    assert_eq!(errors[3], "3 of 5 failed");
    assert_eq!(fake.lock().unwrap().placed(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_role_is_asked_again_with_the_same_key() {
    let (base, fake) = fake_api::start().await;
    fake.lock().unwrap().flaky = true;
    let run = ruyi(&base, &["order", "create", "-"], &lines((1..=40).map(order))).await;
    assert_eq!((run.code, run.err.as_str(), run.out.len()), (0, "", 40));
    // One guard at a time: two in one expression would wait for each other.
    let refused = fake.lock().unwrap().refused;
    assert_eq!((refused, fake.lock().unwrap().placed()), (40, 40));
    // Equal lines are different orders, equal keys are not.
    let mut keyed = order(7);
    keyed["idempotencyKey"] = "k".into();
    let run = ruyi(&base, &["order", "create", "-"], &lines([order(7), order(7), keyed.clone(), keyed])).await;
    assert_eq!((run.code, fake.lock().unwrap().placed()), (0, 43));
    assert_eq!(run.out[2]["orderId"], run.out[3]["orderId"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_fails_for_what_is_late_or_ended_elsewhere() {
    let (base, _world) = fake_api::start().await;
    let run = ruyi(&base, &["order", "create", "-"], &lines((1..=3).map(order))).await;
    assert_eq!(run.code, 0);
    let canceled = ruyi(&base, &["order", "cancel", "2", "--reason", "no"], "").await;
    assert_eq!((canceled.code, &canceled.out[0]["status"]), (0, &json!("CANCELED")));
    assert_eq!(ruyi(&base, &["payment", "pay", "3", "--method", "wechat"], "").await.code, 0);

    // 1 is never paid, 2 is canceled, 3 gets there, 99 does not exist.
    let wait = ["order", "wait", "--status", "SIGNED", "--timeout", "2s", "1", "2", "3", "99"];
    let run = ruyi(&base, &wait, "").await;
    assert_eq!((run.code, ids(&run)), (1, vec!["3"]));
    let errors: Vec<&str> = run.err.lines().collect();
    assert_eq!(errors[0], "error: item 1: order 1: still RESERVED after 2 s");
    assert_eq!(errors[1], "error: item 2: order 2 ended CANCELED, not SIGNED");
    assert_eq!(errors[2], "error: item 4: order 99: 404 not-found: there is no order 99");

    // Any end will do.
    let run = ruyi(&base, &["order", "wait", "-"], "2\n{\"orderId\":\"3\"}\n").await;
    assert_eq!((run.code, ids(&run)), (0, vec!["2", "3"]));
    // The warehouse has 3; nothing is to be paid for 2.
    assert_eq!(ruyi(&base, &["order", "cancel", "3"], "").await.code, 1);
    let run = ruyi(&base, &["payment", "pay", "2"], "").await;
    assert_eq!((run.code, run.err.as_str()), (1, "error: item 1: 409 conflict: the payment is closed\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let (base, _world) = fake_api::start().await;
    let mut child = spawn(&base, &["order", "create", "-"]);
    tokio::task::spawn_blocking(move || {
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        writeln!(stdin, "{}", order(1)).unwrap();
        stdout.read_line(&mut String::new()).unwrap();
        drop(stdout);
        // The input stays open: the command ends by itself at its next result.
        writeln!(stdin, "{}", order(2)).unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
        drop(stdin);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn products_stock_and_lists() {
    let (base, fake) = fake_api::start().await;
    assert_eq!(ruyi(&base, &["product", "set", "-"], PRODUCTS).await.code, 0);
    assert_eq!(ruyi(&base, &["stock", "set", "-"], PRODUCTS).await.code, 0);
    assert_eq!(ruyi(&base, &["product", "set", "TEA", "--name", "茶", "--price", "9.90"], "").await.code, 0);
    let run = ruyi(&base, &["stock", "set", "TEA", "5"], "").await;
    assert_eq!(run.out, [json!({"sku": "TEA", "available": 5, "frozen": 0, "sold": 0})]);
    {
        let fake = fake.lock().unwrap();
        assert_eq!((fake.products.len(), fake.stock.len()), (51, 51));
        assert_eq!(fake.products["TEA"], json!({"name": "茶", "price": 9.9}));
    }
    let run = ruyi(&base, &["order", "create", "--user", "1", "--item", "TEA=2", "--pay-within", "1m"], "").await;
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    ruyi(&base, &["order", "create", "-"], &lines((1..=249).map(order))).await;
    let run = ruyi(&base, &["order", "list", "--limit", "230"], "").await;
    let listed = ids(&run);
    assert_eq!((listed.len(), listed[0], listed[229]), (230, "250", "21"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing() {
    // Nobody listens there.
    let base = "http://127.0.0.1:1";
    let run = ruyi(base, &["order", "create", "-", "--dry-run"], &lines([order(1)])).await;
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!((&run.out[0]["path"], &run.out[0]["body"]["case"]), (&json!("/orders"), &Value::Null));
    let sandboxed = "{\"orderId\":\"5\",\"case\":\"x\",\"sandbox\":{\"repeat\":3}}\n";
    let run = ruyi(base, &["payment", "pay", "-", "--dry-run", "--method", "alipay"], sandboxed).await;
    assert_eq!(run.out[0]["body"], json!({"method": "alipay", "sandbox": {"repeat": 3}}));
    for args in [&["stock", "set", "TEA", "1"][..], &["order", "cancel", "1"]] {
        assert_eq!(ruyi(base, &[args, &["--dry-run"]].concat(), "").await.code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_2() {
    let base = "http://127.0.0.1:1";
    for args in [
        &["order", "create"][..],
        &["order", "create", "--user", "1"],
        &["order", "create", "--user", "x", "--item", "TEA=1"],
        &["order", "create", "-", "--user", "1", "--item", "TEA"],
        &["order", "wait"],
        &["order", "wait", "--status", "HAPPY", "1"],
        &["order", "get", "1", "-"],
        &["payment", "pay", "1", "--concurrency", "0"],
        &["stock", "set", "TEA"],
        &["stock", "set", "TEA", "-1"],
        &["product", "set", "TEA", "--price", "1"],
    ] {
        let run = ruyi(base, args, "").await;
        assert_eq!((run.code, run.out.len()), (2, 0), "{args:?} {}", run.err);
    }
    assert_eq!(ruyi(base, &["order", "create", "missing.jsonl"], "").await.code, 1);
}

/// The example without the payments of merchants' own orders, and of channels that have to be asked, of which the
/// stand-in knows nothing.
fn shop_orders() -> String {
    let unknown = [r#""case":"gateway_"#, r#""case":"callback_lost""#];
    let of_shop = |line: &&str| !unknown.iter().any(|case| line.contains(case));
    ORDERS.lines().filter(of_shop).map(|line| format!("{line}\n")).collect()
}

async fn drive_example(base: &str, count: u64) -> Driven {
    let api = Api::at(base).unwrap();
    let cases = Cases::parse(&shop_orders(), "test").unwrap();
    set_up(&api, &products(PRODUCTS).unwrap(), 1).await.unwrap();
    set_up_coupons(&api, &coupons(COUPONS).unwrap()).await.unwrap();
    let options = Options { count, concurrency: 256 };
    let pulse = Pulse::new(Duration::from_secs(60));
    drive(&api, None, &pulse, &cases, options, &CancellationToken::new(), |_| ()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_brings_every_example_order_to_its_end() {
    let (base, fake) = fake_api::start().await;
    let lines = u64::try_from(shop_orders().lines().count()).unwrap();
    let driven = drive_example(&base, lines).await;
    assert_eq!(driven.unexpected, 0, "{:#?}", driven.failures);
    assert_eq!((driven.ended(End::Open), driven.ended(End::Duplicate)), (0, 10));
    assert_eq!(driven.orders(), lines - 10);
    assert_eq!(fake.lock().unwrap().placed() as u64, driven.orders() - driven.ended(End::Rejected));
    assert!(driven.sample.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_notices_what_should_not_be() {
    let (base, fake) = fake_api::start().await;
    fake.lock().unwrap().oversells = true;
    let driven = drive_example(&base, 200).await;
    assert!(driven.unexpected > 0);
    assert!(driven.failures.iter().all(|failure| failure.ended == End::Signed && failure.expected == End::Canceled));
}
