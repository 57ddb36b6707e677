#!/usr/bin/env bash
# RocketMQ 5.4.0 and 5.5.0: mqadmin exits with 0 when its command has failed.
#
# Behaviour: a command that cannot do what it was asked to prints a stack trace, and the tool exits with 0 all the same:
# a message that was not sent, a topic that was not made, an offset that was not reset. Nothing in its exit code tells
# that from success.
# Seen, with a name server that knows no broker:
#   5.4.0: sendMessage: exit 0, MQClientException
#   5.4.0: updateTopic: exit 0, RemotingConnectException
#   5.4.0: resetOffsetByTime: exit 0, MQClientException
#   5.5.0: the same
# Why it matters: scripts that prepare topics, move offsets or send a message go on as if it had been done. Look for
# "Exception" in what it prints, or use a tool whose exit code can be trusted.
# Needs: a JDK of 17 or later, mvn. Takes about 1 minute.
set -euo pipefail
for tool in java mvn; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
servers=()
cleanup() {
    for pid in "${servers[@]}"; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

# The tools of a version and its name server, from Maven Central.
jars() {
    mkdir -p "$work/$1"
    cat >"$work/$1/pom.xml" <<POM
<project><modelVersion>4.0.0</modelVersion>
<groupId>finding</groupId><artifactId>tools</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-namesrv</artifactId><version>$1</version></dependency>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-tools</artifactId><version>$1</version></dependency>
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

# failing VERSION COMMAND OPTIONS...: runs the tool, and says how it ended.
failing() {
    local version=$1 code=0 what
    shift
    NAMESRV_ADDR="127.0.0.1:$namesrv" java -Duser.home="$work" -XX:TieredStopAtLevel=1 -cp "$work/$version/lib/*" \
        org.apache.rocketmq.tools.command.MQAdminStartup "$@" >"$work/said" 2>&1 || code=$?
    what=$(grep -oE '(MQClient|MQBroker|Remoting[A-Za-z]*)Exception' "$work/said" | tail -1) || what=nothing
    echo "$version: $1: exit $code, $what"
    [ "$code" -eq 0 ] && [ "$what" != nothing ] || changed=1
}

changed=
for version in 5.4.0 5.5.0; do
    jars "$version"
    namesrv=$(free_port)
    nobody=$(free_port)
    printf '%s\n' "listenPort=$namesrv" bindAddress=127.0.0.1 >"$work/namesrv.conf"
    ROCKETMQ_HOME="$work" java -Duser.home="$work" -Xmx128m -cp "$work/$version/lib/*" \
        org.apache.rocketmq.namesrv.NamesrvStartup -c "$work/namesrv.conf" >"$work/namesrv.log" 2>&1 &
    servers+=("$!")
    for _ in $(seq 240); do
        (exec 3<>"/dev/tcp/127.0.0.1/$namesrv") 2>/dev/null && break
        sleep 0.5
    done
    failing "$version" sendMessage -t orders -p hello
    failing "$version" updateTopic -b "127.0.0.1:$nobody" -t orders
    failing "$version" resetOffsetByTime -g readers -t orders -s now
done
if [ -n "$changed" ]; then echo "changed: one of them tells, or works"; exit 1; fi
echo "as stated"
