//! Answers against the description of the API.

use std::sync::OnceLock;

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value};

/// The description, as it is stored; that it is the one that roles serve is a test of its own.
fn api() -> &'static Map<String, Value> {
    static API: OnceLock<Map<String, Value>> = OnceLock::new();
    let stored = include_str!("../../../docs/openapi.json");
    API.get_or_init(|| serde_json::from_str::<Value>(stored).unwrap()["paths"].as_object().unwrap().clone())
}

/// How many parts of `path` the template names, where it is one of its paths.
fn fits(template: &str, path: &str) -> Option<usize> {
    let (wanted, parts) = (template.split('/'), path.split('/'));
    if wanted.clone().count() != parts.clone().count() {
        return None;
    }
    let mut named = 0;
    for (wanted, part) in wanted.zip(parts) {
        match wanted.starts_with('{') {
            true if part.is_empty() => return None,
            true => {}
            false if wanted == part => named += 1,
            false => return None,
        }
    }
    Some(named)
}

/// A problem that a route of the description gives is one that the description names. Paths and methods that are in no
/// description are refused before any route.
pub fn is_documented(method: &Method, path: &str, status: StatusCode) {
    // The sandbox is not played everywhere.
    if status == StatusCode::NOT_FOUND && path.starts_with("/sandbox/") {
        return;
    }
    let routes = api().iter().filter_map(|(template, route)| Some((fits(template, path)?, template, route)));
    let Some((_, template, route)) = routes.max_by_key(|(named, ..)| *named) else { return };
    let Some(operation) = route.get(method.as_str().to_lowercase()) else { return };
    let content = &operation["responses"][status.as_str()]["content"];
    assert!(content["application/problem+json"].is_object(), "{method} {template} may answer {status}: {content}");
}
