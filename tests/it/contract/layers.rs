//! The shape of the sources: imports point down, files stay short; and that of the tests.

use std::path::Path;

use crate::support::sources::{sources, test_sources};

/// Lines of a file at most.
const LINES: usize = 600;

/// Words of a test's name at most.
const NAME_WORDS: usize = 9;

/// A source without its tests and comments.
fn code(text: &str) -> String {
    let program = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    program.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Height of a module of the crate: imports go to the same module or below. `None` for one that is not in the plan.
fn height(module: &str) -> Option<u32> {
    Some(match module {
        "domain" => 0,
        // Usable by everything above the domain.
        "alert" | "clock" | "fault" | "progress" | "shutdown" | "watchdog" => 1,
        "config" => 2,
        "telemetry" | "output" | "cache" => 3,
        "db" => 4,
        "mq" | "delivery" | "http" => 5,
        "roles" | "audit" | "client" | "prune" => 6,
        "process" => 7,
        "cmd" => 8,
        "lib" | "main" => 9,
        _ => return None,
    })
}

/// Neighbours of one height that know nothing of each other.
const SEPARATE: [(&str, &str); 4] = [("mq", "delivery"), ("mq", "http"), ("delivery", "mq"), ("http", "delivery")];

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        let Some(own) = height(module) else {
            wrong.push(format!("{file}: which layer is {module}?"));
            continue;
        };
        for part in code(&text).split("crate::").skip(1) {
            // `use crate::{a, b}` names several at once.
            let named: Vec<String> = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').map(first_word).collect(),
                None => vec![first_word(part)],
            };
            for name in named.iter().filter(|name| *name != module && sources_have(name)) {
                let below = height(name)
                    .is_some_and(|other| other < own || (other == own && !SEPARATE.contains(&(module, name.as_str()))));
                if !below {
                    wrong.push(format!("{file} uses {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Macros of the crate root (`crate::vals!`) are no modules.
fn sources_have(module: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    root.join(module).is_dir() || root.join(format!("{module}.rs")).is_file()
}

#[test]
fn the_domain_is_pure() {
    let mut wrong = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| file.starts_with("domain")) {
        for line in code(text).lines() {
            let line = line.trim_start().trim_start_matches("pub ");
            let Some(used) = line.strip_prefix("use ") else { continue };
            let root = first_word(used);
            let known = ["std", "core", "serde", "serde_json", "thiserror", "utoipa", "jiff", "super", "self", "crate"];
            if !known.contains(&root.as_str()) {
                wrong.push(format!("{file}: {line}"));
            }
        }
        for foreign in ["tokio::", "sqlx::", "reqwest::", "SystemTime", "Instant::now"] {
            if code(text).contains(foreign) {
                wrong.push(format!("{file}: {foreign}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_stay_short() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| (text.lines().count(), file))
        .filter(|(lines, _)| *lines > LINES)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The names of the tests in a source: of functions, and in the lists of the macros that make a test of each function
/// for each database or broker.
fn names_of_tests(text: &str) -> Vec<String> {
    let attributes = text.match_indices("#[test]").chain(text.match_indices("#[tokio::test"));
    let functions = attributes.filter_map(|(at, _)| text[at..].split_once("fn ")).map(|(_, rest)| first_word(rest));

    let lists = text.match_indices("\non_").filter_map(|(at, _)| text[at..].split_once('!'));
    let lists = lists.map(|(_, rest)| rest.trim_start_matches([' ', '{', '(']).split(['}', ')']).next().unwrap());
    let listed = lists.flat_map(|list| list.split(',')).map(|path| first_word(path.rsplit("::").next().unwrap()));

    // A macro's `$name` is the name of no test.
    functions.chain(listed).filter(|name| !name.is_empty()).collect()
}

/// The runner tells the tests of whole clusters from all others by `cluster::`.
#[test]
fn tests_have_short_names_and_lie_outside_support() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (file, text) in test_sources() {
        let names = names_of_tests(&text);
        count += names.len();
        if file.starts_with("support/") && !names.is_empty() {
            wrong.push(format!("{file}: the harness has tests: {names:?}"));
        }
        let mut modules = file.trim_end_matches(".rs").split('/').skip_while(|module| *module == "cluster");
        if modules.any(|module| module.ends_with("cluster")) {
            wrong.push(format!("{file}: `cluster::` selects it"));
        }
        let long = names.iter().filter(|name| name.split('_').count() > NAME_WORDS);
        wrong.extend(long.map(|name| format!("{file}: {name} has more than {NAME_WORDS} words")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 400, "{count}");
}
