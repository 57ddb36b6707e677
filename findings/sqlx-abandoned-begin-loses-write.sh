#!/usr/bin/env bash
# sqlx 0.9.0 on MariaDB: a begin() that its caller gives up leaves the connection inside a transaction, and the next
# write is lost.
#
# Behaviour: pool.begin() is a future. If it is dropped while BEGIN is on its way (a timeout, select!, a client that
# hangs up), the connection goes back to the pool although the server did begin a transaction. The pool's own check of
# the connection does not see it. The next INSERT without a transaction says "1 row", is part of that forgotten
# transaction, and is gone when the connection closes.
# Seen (it takes some tries, since the moment must fit):
#   try 32: @@in_transaction of the pooled connection is 1
#   INSERT without a transaction: 1 row(s)
#   after the pool was closed: 0 row(s) in the table
# Why it matters: timeouts around database work are usual; here one costs another request's write, which was answered
# as done. Begin in a task that is not dropped, or send ROLLBACK in the pool's before_acquire.
# Needs: cargo, Debian's mariadb-server. Takes 1 to 3 minutes, nearly all of it compiling.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
for tool in cargo mariadbd mariadb-install-db mariadb; do
    command -v "$tool" >/dev/null || { echo "needs $tool (Debian: mariadb-server; Rust: cargo)" >&2; exit 2; }
done
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# A MariaDB of our own.
port=$(free_port)
socket="$work/db.sock"
mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$work/install.log" 2>&1
mariadbd --no-defaults --user="$(id -un)" --datadir="$work/data" --socket="$socket" --pid-file="$work/db.pid" \
    --bind-address=127.0.0.1 --port="$port" >"$work/server.log" 2>&1 &
server=$!
sql() { mariadb --no-defaults -uroot -S "$socket" -N -B -e "$1"; }
for _ in $(seq 150); do sql "SELECT 1" >/dev/null 2>&1 && break; sleep 0.2; done
sql "CREATE DATABASE shop"
echo "MariaDB $(sql "SELECT VERSION()"), sqlx 0.9.0"
url="mysql://root@127.0.0.1:$port/shop"

# The program.
mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'END'
[package]
name = "program"
version = "0.0.0"
edition = "2021"

[dependencies]
sqlx = { version = "=0.9.0", default-features = false, features = ["mysql", "runtime-tokio"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{Connection, MySqlConnection};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), sqlx::Error> {
    let url = std::env::args().nth(1).expect("the database's address");
    let pool = MySqlPoolOptions::new().max_connections(1).connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE parcel (id BIGINT PRIMARY KEY)").execute(&pool).await?;

    let mut found = false;
    for number in 0..20_000_u64 {
        // From 20 us to 0.6 ms: some of these end while BEGIN is under way.
        let patience = Duration::from_micros(20 + number * 37 % 600);
        if let Ok(transaction) = tokio::time::timeout(patience, pool.begin()).await {
            transaction?.rollback().await?;
            continue;
        }

        let inside: i64 = sqlx::query_scalar("SELECT CAST(@@in_transaction AS SIGNED)").fetch_one(&pool).await?;
        if inside == 1 {
            println!("try {number}: @@in_transaction of the pooled connection is 1");
            found = true;
            break;
        }
    }
    if !found {
        println!("no connection came back inside a transaction");
        std::process::exit(1);
    }

    let inserted = sqlx::raw_sql("INSERT INTO parcel VALUES (1)").execute(&pool).await?.rows_affected();
    println!("INSERT without a transaction: {inserted} row(s)");
    pool.close().await;

    let mut other = MySqlConnection::connect(&url).await?;
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM parcel").fetch_one(&mut other).await?;
    println!("after the pool was closed: {rows} row(s) in the table");
    std::process::exit(if inserted == 1 && rows == 0 { 0 } else { 1 })
}
END

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
if cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$url"; then
    echo "As stated: the write was answered as done, and is gone."
else
    echo "Not as stated: nothing was lost." >&2
    exit 1
fi
