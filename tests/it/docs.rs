//! The generated documents are the ones in the repository. `RUYI_UPDATE_DOCS=1 cargo test docs` writes them anew.

use std::path::Path;

use serde_json::Value;

use crate::serving::Serving;

#[track_caller]
fn same(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("RUYI_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/{name} is out of date: run `RUYI_UPDATE_DOCS=1 cargo test docs`");
}

#[test]
fn events_are_documented() {
    same("events.md", &ruyi::domain::doc::events_md());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_documented() {
    let serving = Serving::start(&[]).await;
    let api: Value = serving.get("/openapi.json").await;
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let about = format!("{method} {path}: {operation}");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{about}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{about}");
            assert!(operation["tags"][0].is_string(), "{about}");
        }
    }
    same("openapi.json", &format!("{:#}\n", api));
    serving.stop().await;
}
