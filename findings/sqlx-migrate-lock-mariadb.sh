#!/usr/bin/env bash
# sqlx 0.9.0 on MariaDB 10.11: the lock of the migrations is granted to everybody.
#
# Behaviour: before a migration sqlx-mysql takes a named lock with GET_LOCK and the timeout -1, which means "for ever"
# to MySQL. MariaDB answers a negative timeout with NULL and a warning, and locks nothing. sqlx does not read the
# answer, so lock() is Ok on two connections at once, and two processes that start together both apply the same
# migration.
# Seen:
#   GET_LOCK('x', -1) answers: NULL
#   first connection: lock() Ok; second connection: lock() Ok after 0 ms
#   starter A: migrated
#   starter B: while executing migrations: error returned from database: 1062 (23000): Duplicate entry '1' for key 'PRIMARY'
# Why it matters: a rolling deployment starts several processes; the lock is what is meant to make that safe. A
# program must take a lock of its own, with a positive timeout, and look at the answer.
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
sqlx = { version = "=0.9.0", default-features = false, features = ["migrate", "mysql", "runtime-tokio"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Connection, MySqlConnection, MySqlPool};
use std::path::PathBuf;
use std::time::{Duration, Instant};

async fn start(url: &str, folder: &str) -> Result<(), MigrateError> {
    let pool = MySqlPool::connect(url).await?;
    Migrator::new(PathBuf::from(folder)).await?.run(&pool).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (url, folder) = (&arguments[1], &arguments[2]);

    // The lock itself: the first connection holds it, so the second one should wait.
    let mut first = MySqlConnection::connect(url).await?;
    let mut second = MySqlConnection::connect(url).await?;
    first.lock().await?;
    let asked = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(3), second.lock()).await;
    let both_hold = matches!(answer, Ok(Ok(())));
    let word = if both_hold { "Ok" } else { "not granted" };
    println!("first connection: lock() Ok; second connection: lock() {word} after {} ms", asked.elapsed().as_millis());
    drop((first, second));

    // What follows: two starters with one migration that takes a second.
    let (a, b) = tokio::join!(start(url, folder), start(url, folder));
    for (name, result) in [("A", &a), ("B", &b)] {
        match result {
            Ok(()) => println!("starter {name}: migrated"),
            Err(error) => println!("starter {name}: {error}"),
        }
    }

    let collided = a.is_err() || b.is_err();
    std::process::exit(if both_hold && collided { 0 } else { 1 })
}
END

mkdir "$work/migrations"
echo "DO SLEEP(1); CREATE TABLE parcel (id BIGINT PRIMARY KEY);" >"$work/migrations/1_parcel.sql"
echo "GET_LOCK('x', -1) answers: $(sql "SELECT GET_LOCK('x', -1)")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
if cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$url" "$work/migrations"; then
    echo "As stated: two connections hold the lock, and two starters collide."
else
    echo "Not as stated: the lock held, or the starters did not collide." >&2
    exit 1
fi
