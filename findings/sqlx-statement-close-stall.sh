#!/usr/bin/env bash
# sqlx 0.9.0 over TCP: the statement after a closed one waits about 40 ms.
#
# Behaviour: sqlx 0.9.0 no longer sets TCP_NODELAY. When a prepared statement is closed (persistent(false), or the
# oldest of more than 100 texts on one connection) the client sends a packet that has no answer; the next packet is
# then held back until the server's delayed acknowledgement. A Unix socket does not know this, so the same program is
# fast there.
# Seen:
#   TCP loopback: statement kept 117 us, closed after each use 44011 us (medians of 41)
#   Unix socket:  statement kept 51 us, closed after each use 123 us (medians of 41)
# The check asks for a factor of 10, against the kept statement and against the Unix socket.
# Why it matters: a service that builds its SQL, and so has more than 100 texts, becomes hundreds of times slower over
# TCP, and a test over a Unix socket does not show it. Keep texts few or raise statement-cache-capacity.
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
use sqlx::{Connection, MySqlConnection};
use std::time::Instant;

async fn median_us(connection: &mut MySqlConnection, keep: bool) -> Result<u128, sqlx::Error> {
    let mut times = Vec::new();

    for number in 0..41_i64 {
        let query = sqlx::query_scalar("SELECT CAST(? AS SIGNED)").bind(number).persistent(keep);
        let asked = Instant::now();
        let _: i64 = query.fetch_one(&mut *connection).await?;
        times.push(asked.elapsed().as_micros());
    }

    times.sort_unstable();
    Ok(times[times.len() / 2])
}

async fn measure(name: &str, url: &str) -> Result<(u128, u128), sqlx::Error> {
    let mut connection = MySqlConnection::connect(url).await?;
    let kept = median_us(&mut connection, true).await?;
    let closed = median_us(&mut connection, false).await?;
    println!("{name}: statement kept {kept} us, closed after each use {closed} us (medians of 41)");
    Ok((kept, closed))
}

#[tokio::main]
async fn main() -> Result<(), sqlx::Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let (tcp_kept, tcp_closed) = measure("TCP loopback", &arguments[1]).await?;
    let (_, unix_closed) = measure("Unix socket", &arguments[2]).await?;

    let stalls = tcp_closed >= 10 * tcp_kept && tcp_closed >= 10 * unix_closed;
    std::process::exit(if stalls { 0 } else { 1 })
}
END

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
if cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$url" "mysql://root@localhost/shop?socket=$socket"; then
    echo "As stated: over TCP the statement after a closed one stalls, over a Unix socket it does not."
else
    echo "Not as stated: no factor of 10." >&2
    exit 1
fi
