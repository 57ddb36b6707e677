#!/usr/bin/env bash
# RocketMQ 5.4.0 and 5.5.0: every start of a name server makes an RSA key and a certificate that nobody asked for.
#
# Behaviour: without a word about TLS in its configuration a server takes plain and encrypted connections on its port
# ("permissive"), and makes a self-signed certificate for the latter at each start, before it listens. Finding the primes
# takes chance's time, in Java's own arithmetic. Whoever connects without TLS pays for it all the same, and with the C1
# compiler alone (-XX:TieredStopAtLevel=1, the usual advice for short-lived Java processes), which lacks the intrinsics of
# that arithmetic, it is most of what a start costs. Brokers do the same.
# Seen (processor seconds from the start to the open port, the median of five; C1 alone):
#   5.4.0: as it comes 2030 ms, with -Dtls.server.mode=disabled 750 ms of processor time
#   5.5.0: as it comes 2640 ms, with -Dtls.server.mode=disabled 740 ms of processor time
# Why it matters: test suites and health checks that start servers wait two to three times longer than they have to, and
# each time differently long. Where nobody uses TLS on a port, say -Dtls.server.mode=disabled.
# Needs: a JDK of 17 or later, mvn. Takes about 2 minutes.
set -euo pipefail
for tool in java mvn awk; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
server=
cleanup() {
    if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

# The name server of a version, from Maven Central.
jars() {
    mkdir -p "$work/$1"
    cat >"$work/$1/pom.xml" <<POM
<project><modelVersion>4.0.0</modelVersion>
<groupId>finding</groupId><artifactId>namesrv</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-namesrv</artifactId><version>$1</version></dependency>
</dependencies></project>
POM
    mvn -q -B -f "$work/$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/$1/lib" >"$work/$1/maven.log" 2>&1 || { cat "$work/$1/maven.log" >&2; exit 2; }
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# start_of VERSION OPTION: processor ticks (hundredths of a second) of one start, which a busy machine does not change much.
start_of() {
    local port
    port=$(free_port)
    printf '%s\n' "listenPort=$port" bindAddress=127.0.0.1 >"$work/namesrv.conf"
    ROCKETMQ_HOME="$work" java -Duser.home="$work" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx128m "$2" \
        -cp "$work/$1/lib/*" org.apache.rocketmq.namesrv.NamesrvStartup -c "$work/namesrv.conf" >"$work/log" 2>&1 &
    server=$!
    for _ in $(seq 2400); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 2; }
        sleep 0.05
    done
    awk '{ print $14 + $15 }' "/proc/$server/stat" >>"$work/ticks"
    kill -9 "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# median VERSION OPTION: of five starts.
median() {
    : >"$work/ticks"
    for _ in 1 2 3 4 5; do start_of "$1" "$2"; done
    sort -n "$work/ticks" | sed -n 3p
}

changed=
for version in 5.4.0 5.5.0; do
    jars "$version"
    usual=$(median "$version" -Dnothing=said)
    without=$(median "$version" -Dtls.server.mode=disabled)
    echo "$version: as it comes $((usual * 10)) ms, with -Dtls.server.mode=disabled $((without * 10)) ms of processor time"
    [ "$usual" -gt $((without * 3 / 2)) ] || changed=1
done
if [ -n "$changed" ]; then echo "changed: a start without TLS is no cheaper"; exit 1; fi
echo "as stated"
