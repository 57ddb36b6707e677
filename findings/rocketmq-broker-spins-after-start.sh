#!/usr/bin/env bash
# RocketMQ brokers 5.4.0 and 5.5.0: each start keeps a core busy for ten seconds, with nobody connected and nothing to do.
#
# Behaviour: the thread that writes the counters of transaction messages to a file looks at the clock again and again
# until its first interval is over (transactionMetricFlushInterval, 10,000 ms unless told otherwise); from then on it
# sleeps between two writes. It does so whether or not there was ever a transaction message.
# Seen (processor time of that thread in the first 15 s after the broker says that it is up):
#   5.4.0: as it comes 9640 ms, with transactionMetricFlushInterval=300 160 ms
#   5.5.0: as it comes 9670 ms, with transactionMetricFlushInterval=300 170 ms
# Why it matters: a broker that comes back after a failure takes a core from itself just when all clients come back as
# well; brokers on a machine that is limited to one core start with a load of 100 %; and suites that start brokers for
# their tests wait for it each time.
# Needs: Linux, a JDK of 17 or later, mvn. Takes about 2 minutes.
set -euo pipefail
for tool in java mvn awk; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
broker=
stop() {
    if [ -n "$broker" ]; then kill -9 "$broker" 2>/dev/null || true; wait "$broker" 2>/dev/null || true; fi
    broker=
}
trap 'stop; rm -rf "$work"' EXIT

# The broker of a version, from Maven Central.
jars() {
    mkdir -p "$work/$1"
    cat >"$work/$1/pom.xml" <<POM
<project><modelVersion>4.0.0</modelVersion>
<groupId>finding</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-broker</artifactId><version>$1</version></dependency>
</dependencies></project>
POM
    mvn -q -B -f "$work/$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/$1/lib" >"$work/$1/maven.log" 2>&1 || { cat "$work/$1/maven.log" >&2; exit 2; }
}

# The first of four free ports.
free_ports() {
    local port next
    while :; do
        port=$((20000 + RANDOM % 12000))
        for next in 0 1 2 3; do
            (exec 3<>"/dev/tcp/127.0.0.1/$((port + next))") 2>/dev/null && continue 2
        done
        echo "$port"
        return
    done
}

# Ticks of the processor that the thread has used. Linux keeps the first 15 characters of its name.
ticks() {
    local task
    for task in "/proc/$broker/task"/*; do
        if [ "$(cat "$task/comm" 2>/dev/null)" = TransactionFlus ]; then sed 's/.*) //' "$task/stat"; fi
    done | awk '{ sum += $12 + $13 } END { print sum + 0 }'
}

# spent VERSION LINE: milliseconds of processor time of the thread, 15 s after a start with LINE in broker.conf. Nobody
# listens where the name server would be: the broker starts all the same.
spent() {
    local home="$work/home" port
    rm -rf "$home"
    mkdir -p "$home"
    port=$(free_ports)
    printf '%s\n' brokerClusterName=finding brokerName=broker brokerId=0 "namesrvAddr=127.0.0.1:$port" \
        brokerIP1=127.0.0.1 bindAddress=127.0.0.1 "listenPort=$((port + 2))" "haListenPort=$((port + 3))" \
        "storePathRootDir=$home/store" "storePathCommitLog=$home/store/commitlog" mappedFileSizeCommitLog=33554432 \
        "$2" >"$home/broker.conf"
    ROCKETMQ_HOME="$home" java -Duser.home="$home" -Xmx512m -XX:MaxDirectMemorySize=256m \
        --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \
        --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED -cp "$work/$1/lib/*" \
        org.apache.rocketmq.broker.BrokerStartup -c "$home/broker.conf" >"$home/broker.log" 2>&1 &
    broker=$!
    for _ in $(seq 480); do
        grep -q "boot success" "$home/broker.log" && break
        kill -0 "$broker" 2>/dev/null || { tail -5 "$home/broker.log" >&2; exit 2; }
        sleep 0.25
    done
    sleep 15
    echo $(($(ticks) * 1000 / $(getconf CLK_TCK)))
    stop
}

changed=
for version in 5.4.0 5.5.0; do
    jars "$version"
    usual=$(spent "$version" "# nothing said")
    told=$(spent "$version" transactionMetricFlushInterval=300)
    echo "$version: as it comes $usual ms, with transactionMetricFlushInterval=300 $told ms"
    # A loaded machine gives the thread less.
    [ "$usual" -gt 2000 ] && [ "$usual" -gt $((told * 4)) ] || changed=1
done
if [ -n "$changed" ]; then echo "changed: the thread sleeps until its first interval is over"; exit 1; fi
echo "as stated"
