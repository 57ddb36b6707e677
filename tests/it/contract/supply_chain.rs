//! Which crates ruyi is built from: `deny.toml` holds, also where cargo-deny is not installed.
//!
//! Names, versions and sources are those of `Cargo.lock`, which has the crates of every platform. Licences come from
//! `cargo metadata`, which reads the manifests that cargo has downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where crates.io is, as `Cargo.lock` and `cargo metadata` write it.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_toml(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A list in a table of `deny.toml`.
fn deny_list(table: &str, list: &str) -> Vec<toml::Value> {
    let deny = read_toml(&top().join("deny.toml"));
    let entries = deny.get(table).and_then(|table| table.get(list)).and_then(toml::Value::as_array);
    entries.unwrap_or_else(|| panic!("deny.toml has no list {table}.{list}")).clone()
}

/// The package that an entry of `deny.toml` is about: `"name"`, or a table with `crate = "name"`.
fn crate_of(entry: &toml::Value) -> String {
    let named = entry.as_str().or_else(|| entry.get("crate").and_then(toml::Value::as_str));
    named.unwrap_or_else(|| panic!("deny.toml names no crate: {entry:?}")).to_owned()
}

fn texts(entries: &[toml::Value]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.as_str().unwrap_or_else(|| panic!("not a text: {entry:?}")).to_owned()).collect()
}

/// A package of `Cargo.lock`.
struct Locked {
    name: String,
    version: String,
    /// `None` for a package of the workspace.
    source: Option<String>,
}

fn locked() -> Vec<Locked> {
    let lock = read_toml(&top().join("Cargo.lock"));
    let packages = lock["package"].as_array().unwrap();
    let text = |package: &toml::Value, field: &str| package.get(field).and_then(toml::Value::as_str).map(str::to_owned);
    let locked: Vec<Locked> = packages
        .iter()
        .map(|package| Locked {
            name: text(package, "name").unwrap(),
            version: text(package, "version").unwrap(),
            source: text(package, "source"),
        })
        .collect();
    assert!(locked.len() > 100, "{} packages", locked.len());
    locked
}

fn run_cargo(args: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO")).args(args).current_dir(top()).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The packages that `cargo metadata` tells of.
fn metadata() -> Vec<Value> {
    let everywhere = ["metadata", "--offline", "--locked", "--format-version", "1"];
    let text = run_cargo(&everywhere).unwrap_or_else(|_| {
        // Cargo has downloaded the crates of this platform only, because it has only built for this one.
        let version = run_cargo(&["-vV"]).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        run_cargo(&[&everywhere[..], &["--filter-platform", host]].concat()).unwrap()
    });
    let document: Value = serde_json::from_str(&text).unwrap();
    let packages = document["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 100, "{} packages", packages.len());
    packages
}

#[test]
fn every_crate_comes_from_crates_io() {
    let allowed = texts(&deny_list("sources", "allow-registry"));
    assert_eq!(allowed.iter().map(|url| format!("registry+{url}")).collect::<Vec<_>>(), [CRATES_IO]);
    assert!(deny_list("sources", "allow-git").is_empty());

    let mut own = Vec::new();
    let mut foreign = Vec::new();
    for package in locked() {
        match package.source {
            None => own.push(package.name),
            Some(source) if source == CRATES_IO => {}
            Some(source) => foreign.push(format!("{} {}: {source}", package.name, package.version)),
        }
    }
    assert_eq!(own, [env!("CARGO_PKG_NAME")]);
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[test]
fn every_licence_is_allowed() {
    let allowed = texts(&deny_list("licenses", "allow"));
    let mut exceptions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in deny_list("licenses", "exceptions") {
        let licences = entry.get("allow").and_then(toml::Value::as_array).unwrap();
        exceptions.insert(crate_of(&entry), texts(licences));
    }

    let mut faults = Vec::new();
    for package in metadata().iter().filter(|package| !package["source"].is_null()) {
        let name = package["name"].as_str().unwrap();
        let Some(expression) = package["license"].as_str() else {
            faults.push(format!("{name} has no licence expression"));
            continue;
        };
        let more = exceptions.get(name);
        let is_allowed =
            |licence: &str| allowed.contains(licence) || more.is_some_and(|licences| licences.contains(licence));
        match is_satisfied(expression, &is_allowed) {
            Ok(true) => {}
            Ok(false) => faults.push(format!("{name}: {expression} is not allowed")),
            Err(error) => faults.push(format!("{name}: {expression}: {error}")),
        }
    }
    assert!(faults.is_empty(), "see [licenses] of deny.toml: {faults:#?}");
}

#[test]
fn no_banned_crate_is_used() {
    let banned: BTreeSet<String> = deny_list("bans", "deny").iter().map(crate_of).collect();
    assert!(banned.contains("native-tls") && banned.contains("openssl-sys"), "{banned:?}");
    let used: Vec<String> =
        locked().into_iter().map(|package| package.name).filter(|name| banned.contains(name)).collect();
    assert!(used.is_empty(), "{used:?}");
}

/// Major, minor and patch of a version; none of the crates here is a pre-release.
fn numbers(version: &str) -> Vec<u64> {
    let core = version.split(['+', '-']).next().unwrap();
    core.split('.').map(|number| number.parse().unwrap()).collect()
}

#[test]
fn older_versions_are_the_ones_that_are_known() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in locked() {
        versions.entry(package.name).or_default().push(package.version);
    }
    let mut older = BTreeSet::new();
    for (name, mut versions) in versions {
        versions.sort_by_key(|version| numbers(version));
        versions.pop();
        older.extend(versions.into_iter().map(|version| format!("{name}@{version}")));
    }

    let known: BTreeSet<String> = deny_list("bans", "skip").iter().map(crate_of).collect();
    let new: Vec<_> = older.difference(&known).collect();
    let gone: Vec<_> = known.difference(&older).collect();
    assert!(new.is_empty() && gone.is_empty(), "bans.skip of deny.toml lacks {new:?} and needs no more {gone:?}");
}

/// Whether an SPDX expression is satisfied by licences that are allowed. `WITH` makes one licence of two words; a slash
/// is how older manifests write OR.
fn is_satisfied(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut expression = Expression { words: &words, is_allowed };
    let satisfied = expression.any()?;
    match expression.words.first() {
        None => Ok(satisfied),
        Some(word) => Err(format!("unexpected {word}")),
    }
}

/// What is left of an expression while it is read.
struct Expression<'a> {
    words: &'a [&'a str],
    is_allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Expression<'a> {
    /// Takes the next word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    /// Parts between OR: one is enough. Each is read to its end, whatever was found before it.
    fn any(&mut self) -> Result<bool, String> {
        let mut satisfied = self.all()?;
        while self.take("OR") {
            satisfied |= self.all()?;
        }
        Ok(satisfied)
    }

    /// Parts between AND, which binds closer than OR: each is needed.
    fn all(&mut self) -> Result<bool, String> {
        let mut satisfied = self.one()?;
        while self.take("AND") {
            satisfied &= self.one()?;
        }
        Ok(satisfied)
    }

    /// A licence, with its exception if it has one, or an expression in parentheses.
    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let satisfied = self.any()?;
            return if self.take(")") { Ok(satisfied) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let licence = self.word()?;
        if self.take("WITH") {
            let exception = self.word()?;
            return Ok((self.is_allowed)(&format!("{licence} WITH {exception}")));
        }
        Ok((self.is_allowed)(licence))
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.words.split_first() {
            Some((&word, rest)) if !["(", ")", "AND", "OR", "WITH"].contains(&word) => {
                self.words = rest;
                Ok(word)
            }
            Some((word, _)) => Err(format!("a licence is missing before {word}")),
            None => Err("a licence is missing at the end".to_owned()),
        }
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let is_allowed = |licence: &str| ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&licence);
    let cases = [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("MIT/GPL-3.0-only", true),
        ("MIT AND GPL-3.0-only", false),
        // AND binds closer than OR, from either side.
        ("MIT OR GPL-3.0-only AND LGPL-3.0-only", true),
        ("GPL-3.0-only AND LGPL-3.0-only OR MIT", true),
        ("GPL-3.0-only AND (LGPL-3.0-only OR MIT)", false),
        ("ISC AND (GPL-3.0-only OR (MIT AND ISC))", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH LLVM-exception", false),
    ];
    for (expression, satisfied) in cases {
        assert_eq!(is_satisfied(expression, &is_allowed), Ok(satisfied), "{expression}");
    }
    for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT ISC", "AND MIT", "MIT WITH"] {
        assert!(is_satisfied(broken, &is_allowed).is_err(), "{broken}");
    }
}
