#!/usr/bin/env bash
# MariaDB 10.11: a server that starts removes the temporary tables of every other server with the same tmpdir.
#
# Behaviour: at its start mariadbd clears its tmpdir of files whose names begin with #sql, since it takes them for what a
# crashed server left behind. Without --tmpdir that is $TMPDIR or /tmp, which all servers of a machine share. A session
# of another server that has a temporary table there can still read it, and is told that it does not know it when it
# drops it. mariadb-install-db, which starts a server too, now and then fails with "Error on delete" for the same reason
# when two of them run at the same time.
# Seen, in a session of server 1 with a temporary table:
#   server 2 with the same tmpdir has started:  DROP TEMPORARY TABLE: ERROR 1051 (42S02) Unknown table
#   server 3 with a tmpdir of its own has started:  dropped
# Why it matters: tests that start a server each, and two instances on one host, fail now and then with errors that point
# nowhere. Give each server, and each mariadb-install-db, a --tmpdir of its own.
# Needs: Debian's mariadb-server. Takes about 10 seconds.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
for tool in mariadbd mariadb-install-db mariadb; do
    command -v "$tool" >/dev/null || { echo "needs $tool (Debian: mariadb-server)" >&2; exit 2; }
done
work=$(mktemp -d)
servers=()
cleanup() {
    for pid in "${servers[@]}"; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

# start NUMBER TMPDIR: a server of its own data, whose socket is $work/NUMBER/sock.
start() {
    local home="$work/$1"
    mkdir -p "$home" "$2"
    mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$home/data" --tmpdir="$home" --skip-test-db \
        --auth-root-authentication-method=normal >"$home/install.log" 2>&1
    mariadbd --no-defaults --user="$(id -un)" --datadir="$home/data" --tmpdir="$2" --socket="$home/sock" \
        --pid-file="$home/pid" --skip-networking >"$home/server.log" 2>&1 &
    servers+=($!)
    for _ in $(seq 150); do
        mariadb --no-defaults -uroot -S "$home/sock" -e "SELECT 1" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "server $1 did not start" >&2
    exit 2
}

# A session of server 1 that drops its temporary table as soon as there is the file $work/go.
session() {
    {
        echo "CREATE TEMPORARY TABLE test_rows (n INT) ENGINE = Aria;"
        echo "INSERT INTO test_rows VALUES (1), (2), (3);"
        echo "FLUSH TABLES;"
        echo "SELECT CONCAT('before: ', COUNT(*)) FROM test_rows;"
        touch "$work/made"
        while [ ! -e "$work/go" ]; do sleep 0.1; done
        echo "DROP TEMPORARY TABLE test_rows;"
        echo "SELECT 'after: dropped';"
    } | mariadb --no-defaults -uroot -S "$work/1/sock" -N -B --unbuffered mysql 2>&1 || true
}

# run TMPDIR-OF-SERVER-2: what the session of server 1 says while server 2 starts.
run() {
    rm -f "$work/go" "$work/made"
    session >"$work/said" &
    local pid=$!
    while [ ! -e "$work/made" ]; do sleep 0.1; done
    sleep 1
    ls "$work/shared" | grep -q '^#sql' || { echo "the temporary table has no file in its tmpdir" >&2; exit 2; }
    start "$2" "$1"
    touch "$work/go"
    wait "$pid"
    sed 's/^/  /' "$work/said"
}

start 1 "$work/shared"
echo "MariaDB $(mariadb --no-defaults -uroot -S "$work/1/sock" -N -B -e "SELECT VERSION()")"

echo "server 2 with the same tmpdir:"
run "$work/shared" 2
if ! grep -q '^before: 3' "$work/said" || ! grep -q '^ERROR 1051' "$work/said"; then
    echo "changed: the table of server 1 outlived the start of server 2"
    exit 1
fi

echo "server 3 with a tmpdir of its own:"
run "$work/own" 3
grep -q '^after: dropped' "$work/said" || { echo "changed: it is gone all the same"; exit 1; }
echo "as stated"
