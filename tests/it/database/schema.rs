//! `ruyi db migrate`.

use std::process::Stdio;

use ruyi::db::migrate;
use sqlx::{AnyConnection, Connection};

use crate::support::servers::tidb::{is_tidb, tidb_url};
use crate::support::servers::{TestDb, mariadb_url};

/// The address of a database like that of `test`, but empty.
async fn empty_like(test: &TestDb) -> String {
    if is_tidb(&test.url) {
        tidb_url().await.unwrap()
    } else if test.url.starts_with("mysql") {
        mariadb_url().await.unwrap()
    } else {
        format!("sqlite://{}", test.dir.path().join("new/folder/ruyi.db").display())
    }
}

fn migrate_process(test: &TestDb, url: &str, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ruyi"));
    command.args(["db", "migrate", "--output", "jsonl", "--set"]).arg(format!("database.url={url}")).args(args);
    command.current_dir(test.dir.path()).env_remove("RUYI_CONFIG").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(super) async fn eight_processes_migrate_once(test: TestDb) {
    let url = empty_like(&test).await;
    let all: Vec<_> = (0..8).map(|_| migrate_process(&test, &url, &["--wait-for", "10s"]).spawn().unwrap()).collect();
    let mut lines = Vec::new();
    for process in all {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines.push(String::from_utf8(output.stdout).unwrap().lines().count());
    }
    lines.sort_unstable();
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let steps = folder.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "sql")).count();
    assert_eq!(lines, [0, 0, 0, 0, 0, 0, 0, steps]);
    assert!(migrate::pending(&url).await.unwrap().is_empty());
    assert!(migrate::run(&url).await.unwrap().is_empty());
}

pub(super) async fn a_newer_schema_is_refused(test: TestDb) {
    let mut conn = AnyConnection::connect(&test.url).await.unwrap();
    let text = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                VALUES (9999, 'later', TRUE, x'00', 1)";
    sqlx::raw_sql(text).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    for args in [&[][..], &["--dry-run"]] {
        let output = migrate_process(&test, &test.url, args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the schema of the database is at version 9999"), "{error}");
    }
}

pub(super) async fn a_dry_run_changes_nothing(test: TestDb) {
    let url = empty_like(&test).await;
    for _ in 0..2 {
        let output = migrate_process(&test, &url, &["--dry-run", "--show-sql"]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let first: serde_json::Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
        assert_eq!((first["version"].as_i64(), first["status"].as_str()), (Some(1), Some("missing")));
        assert!(first["sql"].as_str().unwrap().contains("CREATE TABLE node_lease"));
        assert_eq!(shown.lines().count(), migrate::pending(&url).await.unwrap().len());
    }
    if url.starts_with("sqlite") {
        assert!(!test.dir.path().join("new").exists());
    }
    let text = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
    if url.starts_with("mysql") {
        let mut conn = AnyConnection::connect(&url).await.unwrap();
        let row = ruyi::db::sql::fetch_one(&mut conn, text, vec![]).await.unwrap().unwrap();
        assert_eq!(ruyi::db::sql::Columns::int(&row, 0).unwrap(), 0);
    }
}
