#!/usr/bin/env bash
# sqlx 0.9.0 on SQLite: after SQLite has rolled back by itself, the connection never begins a transaction of its own
# again.
#
# Behaviour: SQLite ends a transaction by itself in some cases: when it is full, or at INSERT OR ROLLBACK. sqlx counts
# on: the ROLLBACK that follows fails ("no transaction is active"), and the connection is kept with one transaction
# still counted. From then on begin_with("BEGIN IMMEDIATE") is refused for ever, also long after there is room again,
# and a plain begin() sends SAVEPOINT where no transaction is. Statements without a transaction work, so the pool sees
# a sound connection.
# Seen (after INSERT OR ROLLBACK, and after a limit of 20 pages that was reached and then raised):
#   OR ROLLBACK: rollback: cannot rollback - no transaction is active; INSERT alone: Ok; 3 x BEGIN IMMEDIATE: 0 Ok
#   full:        rollback: cannot rollback - no transaction is active; INSERT alone: Ok; 3 x BEGIN IMMEDIATE: 0 Ok
#   a fresh connection: 3 x BEGIN IMMEDIATE: 3 Ok
# Why it matters: BEGIN IMMEDIATE is the way to write from several connections. A disk that is full for a second makes
# a pool of one writer refuse every write until the process is restarted. Close a connection whose rollback or commit
# failed.
# Needs: cargo, a C compiler. Takes 1 to 3 minutes, nearly all of it compiling.
set -euo pipefail
for tool in cargo cc; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'END'
[package]
name = "program"
version = "0.0.0"
edition = "2021"

[dependencies]
sqlx = { version = "=0.9.0", default-features = false, features = ["runtime-tokio", "sqlite"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Error, SqlitePool};

/// A pool of one connection, as for a writer.
async fn open(path: &str) -> Result<SqlitePool, Error> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqlitePoolOptions::new().max_connections(1).connect_with(options).await
}

async fn begins(pool: &SqlitePool) -> usize {
    let mut begun = 0;
    for _ in 0..3 {
        if let Ok(transaction) = pool.begin_with("BEGIN IMMEDIATE").await {
            begun += usize::from(transaction.rollback().await.is_ok());
        }
    }
    begun
}

/// Runs `failing` in a transaction, rolls back, and tells what the connection can do from then on.
async fn after(name: &str, path: &str, before: &str, failing: &'static str) -> Result<bool, Error> {
    let pool = open(path).await?;
    sqlx::raw_sql("CREATE TABLE parcel (id INTEGER PRIMARY KEY, body BLOB); INSERT INTO parcel VALUES (1, 'a')").execute(&pool).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(before.to_owned())).execute(&pool).await?;

    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let failed = sqlx::query(failing).execute(&mut *transaction).await.is_err();
    let rollback = transaction.rollback().await;
    sqlx::raw_sql("PRAGMA max_page_count = 1000000").execute(&pool).await?;

    let alone = sqlx::query("INSERT INTO parcel VALUES (2, 'b')").execute(&pool).await.is_ok();
    let begun = begins(&pool).await;
    let words = match rollback {
        Ok(()) => "Ok".to_owned(),
        Err(Error::Database(error)) => error.message().to_owned(),
        Err(error) => error.to_string(),
    };
    println!("{name}: rollback: {words}; INSERT alone: {}; 3 x BEGIN IMMEDIATE: {begun} Ok", if alone { "Ok" } else { "refused" });
    pool.close().await;

    let fresh = begins(&open(path).await?).await;
    println!("{name}, a fresh connection: 3 x BEGIN IMMEDIATE: {fresh} Ok");
    Ok(failed && alone && begun == 0 && fresh == 3)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = std::env::args().nth(1).expect("a folder");
    let conflict = after("OR ROLLBACK", &format!("{folder}/a.db"), "SELECT 1", "INSERT OR ROLLBACK INTO parcel VALUES (1, 'a')").await?;
    let full =
        after("full", &format!("{folder}/b.db"), "PRAGMA max_page_count = 20", "INSERT INTO parcel VALUES (3, zeroblob(1000000))").await?;
    std::process::exit(if conflict && full { 0 } else { 1 })
}
END
mkdir "$work/databases"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
if cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$work/databases"; then
    echo "As stated: the connection serves statements and never BEGIN IMMEDIATE again."
else
    echo "Not as stated." >&2
    exit 1
fi
