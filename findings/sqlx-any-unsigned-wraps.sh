#!/usr/bin/env bash
# sqlx 0.9.0, the Any driver on MariaDB: large unsigned numbers are read as negative ones, without an error.
#
# Behaviour: over sqlx::Any a SMALLINT, INT or BIGINT UNSIGNED column is read as if it were signed. The native driver
# gives the right numbers as u16, u32 and u64 and refuses to read INT UNSIGNED as i64; Any has no unsigned types,
# reads i64 and says Ok.
# Seen over Any, as i64:
#   SMALLINT UNSIGNED 40000: Ok(-25536)
#   INT UNSIGNED 4000000000: Ok(-294967296)
#   BIGINT UNSIGNED 10000000000000000000: Ok(-8446744073709551616)
# Why it matters: the first two fit into the i64 that was asked for. Stock, money or ids in an unsigned column of
# somebody else turn negative in silence once they pass half of the range. CAST(column AS SIGNED) in the SELECT reads
# the first two right.
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
sqlx = { version = "=0.9.0", default-features = false, features = ["any", "mysql", "runtime-tokio"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use sqlx::{AnyConnection, Connection, MySqlConnection, Row};

#[tokio::main]
async fn main() -> Result<(), sqlx::Error> {
    let url = std::env::args().nth(1).expect("the database's address");
    sqlx::any::install_default_drivers();
    let mut native = MySqlConnection::connect(&url).await?;
    let mut any = AnyConnection::connect(&url).await?;

    sqlx::raw_sql("CREATE TABLE stock (few SMALLINT UNSIGNED, some INT UNSIGNED, many BIGINT UNSIGNED)").execute(&mut native).await?;
    sqlx::raw_sql("INSERT INTO stock VALUES (40000, 4000000000, 10000000000000000000)").execute(&mut native).await?;

    let row = sqlx::query("SELECT few, some, many FROM stock").fetch_one(&mut native).await?;
    let right: (u16, u32, u64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    println!("native: {right:?}; INT UNSIGNED as i64: {}", row.try_get::<i64, _>(1).is_ok());

    let row = sqlx::query("SELECT few, some, many FROM stock").fetch_one(&mut any).await?;
    let wrapped: Vec<_> = (0..3).map(|column| row.try_get::<i64, _>(column)).collect();
    println!("Any, as i64: {wrapped:?}");

    let row = sqlx::query("SELECT CAST(few AS SIGNED), CAST(some AS SIGNED) FROM stock").fetch_one(&mut any).await?;
    println!("Any, with CAST(.. AS SIGNED): {} {}", row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?);

    let stated = [-25_536, -294_967_296, -8_446_744_073_709_551_616];
    let as_stated = wrapped.iter().zip(stated).all(|(read, stated)| matches!(read, Ok(number) if *number == stated));
    std::process::exit(if as_stated { 0 } else { 1 })
}
END

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
if cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$url"; then
    echo "As stated: unsigned numbers come negative over Any."
else
    echo "Not as stated: Any gave other answers." >&2
    exit 1
fi
