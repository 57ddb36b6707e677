//! The shape of the sources: imports point down, files stay short, nothing panics on purpose.

use std::path::Path;

use crate::support::sources::sources;

/// Lines of a file at most.
const LINES: usize = 600;

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
        "alert" | "clock" | "fault" | "progress" | "shutdown" => 1,
        "config" => 2,
        "telemetry" | "output" | "cache" => 3,
        "db" => 4,
        "mq" | "delivery" | "http" => 5,
        "roles" | "audit" | "client" | "prune" => 6,
        "process" => 7,
        "demo" | "bench" => 8,
        "cmd" => 9,
        "lib" | "main" => 10,
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

#[test]
fn nothing_panics_on_purpose_and_no_lint_is_silenced() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let program = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        let lines: Vec<&str> = program.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in [".unwrap()", ".expect(", "todo!", "unimplemented!", "dbg!", "#[allow", "#![allow"] {
                // An #[expect] with its reason, on the item around it.
                let reasoned = word == ".expect("
                    && lines[index.saturating_sub(4)..index].iter().any(|line| line.contains("clippy::expect_used"));
                if code.contains(word) && !reasoned {
                    wrong.push(format!("{file}:{}: {}", index + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
