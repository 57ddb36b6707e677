#!/usr/bin/env bash
# The Rust crate prometheus 0.14.0 and Prometheus 2.42: one metric with a label that the registry also sets costs
# every metric of the process.
#
# Behaviour: Registry::new_custom takes labels for all that it gathers. A metric that has a label of the same name is
# registered with Ok, and its sample is written with the label twice. promtool refuses such a text, and so does the
# server: it throws the whole scrape away, with every other metric in it, and takes the process for down.
# Seen:
#   register: Ok(())
#   calls_total{service="pay",service="order"} 1
#   promtool: text format parsing error in line 3: duplicate label names for metric "calls_total"
#   server: up 0, series of the metric other_total: 0; label name "service" is not unique: invalid sample
#   server, without the label in the metric: up 1, series of the metric other_total: 1
# Why it matters: a label for the whole process ("service", "role") is usual, and so is the same name on a metric
# about calls to other services. Nothing in the process says so; the alert that fires is that the process is down.
# Needs: cargo, Debian's prometheus (server and promtool), curl, python3. Takes about 1 minute.
set -euo pipefail
for tool in cargo prometheus promtool curl python3; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
servers=()
cleanup() {
    for pid in "${servers[@]}"; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
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

mkdir -p "$work/program/src" "$work/pages"
cat >"$work/program/Cargo.toml" <<'END'
[package]
name = "program"
version = "0.0.0"
edition = "2021"

[dependencies]
prometheus = { version = "=0.14.0", default-features = false }

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
use prometheus::{IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use std::collections::HashMap;

/// Two metrics in a registry of the service "order"; the first one has a label named `label`.
fn text(label: &str) -> prometheus::Result<String> {
    let labels = HashMap::from([("service".to_owned(), "order".to_owned())]);
    let registry = Registry::new_custom(None, Some(labels))?;

    let calls = IntCounterVec::new(Opts::new("calls_total", "Calls to others."), &[label])?;
    println!("label {label}: register: {:?}", registry.register(Box::new(calls.clone())));
    calls.with_label_values(&["pay"]).inc();

    let other = IntCounter::new("other_total", "Something else.")?;
    registry.register(Box::new(other.clone()))?;
    other.inc();
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder")?;
    std::fs::write(format!("{folder}/twice"), text("service")?)?;
    std::fs::write(format!("{folder}/once"), text("peer")?)?;
    Ok(())
}
END
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
cargo run --quiet --manifest-path "$work/program/Cargo.toml" -- "$work/pages"
grep "^calls_total" "$work/pages/twice" "$work/pages/once" -h

# 1 is a text that cannot be read; hints about names are 3.
lint() {
    local status=0
    promtool check metrics <"$work/pages/$1" >"$work/lint" 2>&1 || status=$?
    echo "promtool, label $1: exit $status $(head -n1 "$work/lint" | sed 's/^error while linting: //')"
    [ "$status" -eq "$2" ]
}
as_stated=yes
lint twice 1 || as_stated=
lint once 0 || as_stated=

page_port=$(free_port)
python3 -m http.server --bind 127.0.0.1 --directory "$work/pages" "$page_port" >"$work/pages.log" 2>&1 &
servers+=("$!")
cat >"$work/prometheus.yml" <<END
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - {job_name: twice, metrics_path: /twice, static_configs: [{targets: ["127.0.0.1:$page_port"]}]}
  - {job_name: once, metrics_path: /once, static_configs: [{targets: ["127.0.0.1:$page_port"]}]}
END
port=$(free_port)
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
    --web.listen-address="127.0.0.1:$port" >"$work/prometheus.log" 2>&1 &
servers+=("$!")

# ask QUERY: the value of the only series, nothing where there is none.
ask() {
    curl -sS -G "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1" 2>/dev/null |
        python3 -c 'import json, sys; print(*[r["value"][1] for r in json.load(sys.stdin)["data"]["result"]])' 2>/dev/null || true
}
for _ in $(seq 120); do
    [ -n "$(ask 'up{job="twice"}')" ] && [ "$(ask 'count(other_total{job="once"})')" = 1 ] && break
    sleep 0.5
done
sleep 3

for job in twice once; do
    up=$(ask "up{job=\"$job\"}")
    other=$(ask "count(other_total{job=\"$job\"})")
    error=$(curl -sS "http://127.0.0.1:$port/api/v1/targets" |
        python3 -c 'import json, sys; print(*[t["lastError"] for t in json.load(sys.stdin)["data"]["activeTargets"] if t["scrapePool"] == sys.argv[1]])' "$job")
    echo "server, label $job: up $up, series of the metric other_total: ${other:-0} $error"
    [ "$job $up ${other:-0}" = "twice 0 0" ] || [ "$job $up ${other:-0}" = "once 1 1" ] || as_stated=
done

if [ -n "$as_stated" ]; then
    echo "As stated: one label that stands twice costs the whole scrape."
else
    echo "Not as stated." >&2
    exit 1
fi
