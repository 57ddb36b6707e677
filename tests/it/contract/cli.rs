//! The binary from outside: help, exit codes, what is printed where.

use std::process::Stdio;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use ruyi::output::{Format, Output};
use serde::Serialize;

use crate::support::program::settings_of_tests;

/// ruyi in an empty directory, with none of our environment.
fn ruyi(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("ruyi");
    for name in settings_of_tests() {
        command.env_remove(name);
    }
    command.current_dir(dir).env("NO_COLOR", "1").env("COLUMNS", "100").args(args);
    command
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn out(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn err(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn help_is_as_recorded() {
    insta::assert_snapshot!("help", out(&ruyi(&dir(), &["--help"]).assert().code(0)));
    insta::assert_snapshot!("help_config", out(&ruyi(&dir(), &["config", "--help"]).assert().code(0)));
}

#[test]
fn wrong_usage_is_2() {
    let dir = dir();
    for args in [
        &["no-such-command"][..],
        &[],
        &["config"],
        &["config", "show", "--nonsense"],
        &["config", "show", "--output", "xml"],
        &["config", "show", "-v", "-q"],
        &["config", "show", "--set", "mq.queues"],
        &["config", "show", "--set", "mq.queue=1"],
        &["config", "show", "--config", "missing.toml"],
        &["--set", "mq.queues=1", "config", "show", "--set", "mq.tls=true"],
    ] {
        let assert = ruyi(&dir, args).assert().code(2);
        assert_eq!(out(&assert), "", "{args:?}");
        assert!(!err(&assert).is_empty(), "{args:?}");
    }
}

#[test]
fn an_error_says_what_to_do() {
    let assert = ruyi(&dir(), &["config", "show"]).env("RUYI_MQ__NAMESVR", "x").assert().code(2);
    let expected = "error: unknown key `mq.namesvr` in environment variable RUYI_MQ__NAMESVR\nhelp: did you mean `RUYI_MQ__NAMESRV`?\n";
    assert_eq!(err(&assert), expected);
    let assert = ruyi(&dir(), &["config", "show", "--config", "missing.toml"]).assert().code(2);
    assert!(
        err(&assert).starts_with("error: cannot read the configuration file missing.toml\n  caused by: "),
        "{}",
        err(&assert)
    );
    let assert = ruyi(&dir(), &["config", "show", "--set", "log.filter=a=b=c"]).assert().code(1);
    assert!(err(&assert).starts_with("error: log.filter is not a log filter\n  caused by: "), "{}", err(&assert));
}

#[test]
fn config_show_prints_effective_values_masked() {
    let dir = dir();
    std::fs::write(dir.path().join("ruyi.toml"), "[mq]\nqueues = 5\n[database]\nurl = 'mysql://a:hunter2@db/r'\n")
        .unwrap();
    let assert = ruyi(&dir, &["config", "show", "--set", "mq.secret_key=hunter3", "--set", "mq.access_key=hunter4"])
        .env("RUYI_MQ__NAMESPACE", "shop")
        .assert()
        .code(0);
    let shown: toml::Table = out(&assert).parse().unwrap();
    assert_eq!(shown["mq"]["queues"].as_integer(), Some(5));
    assert_eq!(shown["mq"]["namespace"].as_str(), Some("shop"));
    assert_eq!(shown["mq"]["secret_key"].as_str(), Some("********"));
    assert_eq!(shown["database"]["url"].as_str(), Some("mysql://a:********@db/r"));
    assert!(!out(&assert).contains("hunter"));
    assert_eq!(err(&assert), "");

    let assert = ruyi(&dir, &["config", "show", "-o", "json", "--set=mq.queues=6"]).assert().code(0);
    let shown: serde_json::Value = serde_json::from_str(&out(&assert)).unwrap();
    assert_eq!((shown["version"].as_i64(), shown["config"]["mq"]["queues"].as_i64()), (Some(1), Some(6)));
    assert!(!out(&assert).contains("hunter"));
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let dir = dir();
    std::fs::write(dir.path().join("other.toml"), "[mq]\nqueues = 9\n").unwrap();
    std::fs::write(dir.path().join("ruyi.toml"), "[mq]\nqueues = 5\n").unwrap();
    let assert = ruyi(&dir, &["config", "show"]).env("RUYI_CONFIG", "other.toml").assert().code(0);
    assert!(out(&assert).contains("queues = 9"));
}

#[test]
fn shown_values_are_not_taken_for_secrets() {
    let dir = dir();
    let shown = out(&ruyi(&dir, &["config", "show"]).assert().code(0));
    std::fs::write(dir.path().join("ruyi.toml"), shown).unwrap();
    let assert = ruyi(&dir, &["config", "show"]).assert().code(2);
    assert!(err(&assert).contains("`warehouse.secret` in ruyi.toml line"), "{}", err(&assert));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = dir();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for format in ["table", "json"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ruyi"))
            .args(["config", "show", "--output", format])
            .current_dir(&dir)
            .stdout(writer.try_clone().unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    }
}

#[derive(Serialize)]
struct Row {
    topic: &'static str,
    queue: i32,
    key: Option<&'static str>,
}

/// A writer that can be read afterwards.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn written(format: Format, rows: Vec<Row>) -> String {
    let shared = Shared::default();
    Output::new(format, Box::new(shared.clone())).rows(rows).unwrap();
    String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn rows_in_every_format() {
    let rows =
        || vec![Row { topic: "b", queue: 0, key: None }, Row { topic: "a", queue: 12, key: Some("x\u{1b}[31m") }];
    insta::assert_snapshot!(written(Format::Table, rows()), @r"
    TOPIC   QUEUE   KEY
    b       0       -
    a       12      x\u{1b}[31m
    ");
    assert_eq!(
        written(Format::Json, rows()),
        "{\"version\":1,\"items\":[{\"topic\":\"b\",\"queue\":0,\"key\":null},{\"topic\":\"a\",\"queue\":12,\"key\":\"x\\u001b[31m\"}]}\n"
    );
    assert_eq!(written(Format::Jsonl, rows()).lines().count(), 2);
    assert_eq!(written(Format::Json, Vec::new()), "{\"version\":1,\"items\":[]}\n");
    assert_eq!(written(Format::Table, Vec::new()), "");
    assert_eq!(written(Format::Jsonl, Vec::new()), "");
}
