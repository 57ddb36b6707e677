//! Every setting does something.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use reqwest::Method;
use ruyi::config::{Config, EXAMPLE, Sources};
use ruyi::db::migrate;
use ruyi::fault::Faults;
use serde_json::json;

use crate::support::servers::mariadb_url;
use crate::support::serving::{Serving, order_of};
use crate::support::sources::sources;

/// The settings of the example, as (name of the table, name of the setting).
fn settings(table: &toml::Table, name: &str, out: &mut Vec<(String, String)>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => settings(inner, key, out),
            _ => out.push((name.to_owned(), key.clone())),
        }
    }
}

/// Whether a source reads the field `key` of something, and says `table` as a word of its own.
fn reads(text: &str, table: &str, key: &str) -> bool {
    let is_word = |at: usize, word: &str| {
        let around = [text[..at].chars().next_back(), text[at + word.len()..].chars().next()];
        around.into_iter().flatten().all(|c| !c.is_alphanumeric() && c != '_')
    };
    let field = format!(".{key}");
    let is_read = text.match_indices(&field).any(|(at, _)| is_word(at + 1, key));
    is_read && (table.is_empty() || text.to_ascii_lowercase().match_indices(table).any(|(at, _)| is_word(at, table)))
}

/// A check that a value makes sense, or a warning, is not what a setting is for.
#[test]
fn each_setting_is_read_by_what_it_sets() {
    let mut all = Vec::new();
    settings(&EXAMPLE.parse().unwrap(), "", &mut all);
    assert!(all.len() > 120, "{}", all.len());

    let only_looks = ["config/check.rs", "config/load.rs", "config/schema.rs", "cmd/doctor/settings.rs"];
    let mut readers: BTreeMap<String, String> = sources();
    readers.retain(|file, _| !only_looks.contains(&file.as_str()));
    // Tables whose names the user chooses are read as values of a map.
    let of_maps = ["default", "sandbox", "merchant", "channel_query", "refund_query", "sms", "email"];
    let unread: Vec<_> = all
        .iter()
        .filter(|(table, key)| {
            let table = if of_maps.contains(&table.as_str()) { "" } else { table };
            !readers.values().any(|text| reads(text, table, key))
        })
        .collect();
    assert!(unread.is_empty(), "{unread:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_keeps_to_the_limits_that_are_set() {
    let serving = Serving::start(&["order.max_quantity=3", "order.max_lines=1"]).await;
    serving.fill().await;
    serving.place(&order_of("A1", 3)).await;
    let two = json!({"userId": "7", "items": [{"sku": "A1", "quantity": 1}, {"sku": "B2", "quantity": 1}]});
    for (order, hint) in [(order_of("A1", 4), "at most 3 (order.max_quantity)"), (two, "1 to 1 lines")] {
        let (status, _, problem) = serving.send(Method::POST, "/orders", &order).await;
        assert_eq!(status.as_u16(), 422);
        assert!(problem["detail"].as_str().unwrap().contains(hint), "{problem}");
    }
    serving.stop().await;

    let too_much = Sources { sets: vec!["order.max_quantity=10000".to_owned()], ..Sources::default() };
    let error = Config::load(&too_much).unwrap_err();
    assert!(error.to_string().contains("order.max_quantity"), "{error}");
}

/// Counts transactions that place orders from before their commit until after it, and notes the most at a time.
fn counting(most: &Arc<AtomicUsize>) -> Faults {
    let (most, mut at_once) = (Arc::clone(most), 0);
    Faults::plan(Box::new(move |name, stage| {
        match (name, stage) {
            ("create_order", "before_commit") => at_once += 1,
            ("create_order", "after_commit") => at_once -= 1,
            _ => {}
        }
        most.fetch_max(at_once, Ordering::SeqCst);
        false
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_writers_place_orders_at_once() {
    for (writers, rounds) in [(1, 5), (4, 100)] {
        let Some(url) = mariadb_url().await else { return };
        migrate::run(&url).await.unwrap();
        let (database, writers_set) = (format!("database.url={url}"), format!("database.writers={writers}"));
        let settings = [database.as_str(), &writers_set, "order.batch=1"];
        let most = Arc::new(AtomicUsize::new(0));
        let serving = Serving::planned("127.0.0.1:0", &settings, |plan| plan.faults = counting(&most)).await;
        serving.fill().await;
        // Two that are at their commits at the same time are enough to see that there is more than one.
        let order = order_of("A1", 1);
        for _ in 0..rounds {
            join_all((0..8).map(|_| serving.send(Method::POST, "/orders", &order))).await;
            if most.load(Ordering::SeqCst) > 1 {
                break;
            }
        }
        let stored = serving.number("SELECT COUNT(*) FROM orders").await;
        assert!(stored >= 8, "{stored}");
        assert_eq!(most.load(Ordering::SeqCst) > 1, writers > 1, "{writers} writers");
        serving.stop().await;
    }
}
