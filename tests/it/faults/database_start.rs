//! A role that starts before its database.

use std::time::{Duration, Instant};

use ruyi::config::{Config, Sources};
use ruyi::db::migrate;
use ruyi::domain::event::Role;
use ruyi::process::{Plan, Process, StartError, Work};

use crate::support::servers::child::free_port;
use crate::support::servers::mariadb::MariaDb;
use crate::support::serving::{Serving, order_of};

async fn start(url: &str, wait: &str) -> Result<Process, StartError> {
    let dir = tempfile::tempdir().unwrap();
    let sets = vec![
        format!("data_dir={}", dir.path().display()),
        format!("database.url={url}"),
        format!("database.wait={wait}"),
        "mq.enabled=false".to_owned(),
    ];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
    Process::start(&config, Plan::new(&Role::ALL, Work::SERVE, None)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn role_waits_for_its_database_at_start() {
    let Some(server) = MariaDb::start() else { return };
    let url = server.create("ruyi").await;
    migrate::run(&url).await.unwrap();
    server.stop();
    let database = format!("database.url={url}");
    let starting = tokio::spawn(async move { Serving::start(&[&database, "database.wait=10m"]).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!starting.is_finished());
    server.start_again().await;
    let serving = starting.await.unwrap();
    serving.fill().await;
    let id = serving.place(&order_of("A1", 1)).await;
    serving.until(&format!("/orders/{id}"), "status", "RESERVED").await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_at_start_ends_and_says_why() {
    let url = format!("mysql://shop:hunter2@127.0.0.1:{}/ruyi", free_port());
    let Err(error) = start(&url, "1s").await else { panic!("nothing is there") };
    let text = error.to_string();
    assert!(matches!(error, StartError::NoDatabase { .. }), "{text}");
    assert!(text.contains("database.wait") && text.contains("mysql://shop:********@127.0.0.1"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_at_start_is_not_waited_for() {
    let Some(server) = MariaDb::start() else { return };
    server.ready().await;
    for url in [server.url("nowhere"), server.url("mysql").replace("root@", "nobody:wrong@")] {
        let started = Instant::now();
        let Err(error) = start(&url, "10m").await else { panic!("it refuses") };
        assert!(matches!(error, StartError::Db(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
