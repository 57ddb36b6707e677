#!/usr/bin/env bash
# RocketMQ broker 5.4.0, metrics for Prometheus: the lag of a consumer group has no series while the group has no
# member.
#
# Behaviour: rocketmq_consumer_lag_messages and its sisters exist only for groups that have a member connected. When
# the last one goes away its series is left out, neither kept nor raised. The broker itself still knows the lag: the
# admin client's examineConsumeStats tells it.
# Seen:
#   a member is connected and paused: rocketmq_consumer_lag_messages 16, by the admin client 16
#   no member is connected: rocketmq_consumer_lag_messages absent, by the admin client 36
# (16 of 20: what the paused member had asked for already was still handled.)
# Why it matters: an alert "lag > N" is silent exactly when every consumer of a group is down, and a panel shows a gap
# where the backlog grows. The alert needs absent() or a count of the members, or another source for the lag.
# Needs: a JDK of 17 or later, mvn, curl, promtool (Debian's prometheus) to see that the text is valid. Takes about 1
# minute.
set -euo pipefail
for tool in java mvn curl promtool; do
    command -v "$tool" >/dev/null || { echo "needs $tool" >&2; exit 2; }
done
work=$(mktemp -d)
servers=()
cleanup() {
    for pid in "${servers[@]}"; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

# jars VERSION: the jars of Apache RocketMQ, from Maven Central.
jars() {
    mkdir -p "$work/$1"
    {
        echo '<project><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>finding</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging><dependencies>'
        for part in namesrv broker tools client; do
            echo "<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-$part</artifactId><version>$1</version></dependency>"
        done
        echo '</dependencies></project>'
    } >"$work/$1/pom.xml"
    mvn -q -B -f "$work/$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work/$1/lib" >"$work/$1/maven.log" 2>&1 || { cat "$work/$1/maven.log" >&2; exit 2; }
}

# The first of ten free ports.
free_ports() {
    local port next
    while :; do
        port=$((20000 + RANDOM % 12000))
        for next in 0 1 2 3 4 5 6 7 8 9; do
            (exec 3<>"/dev/tcp/127.0.0.1/$((port + next))") 2>/dev/null && continue 2
        done
        echo "$port"
        return
    done
}

# cluster VERSION PORT: a name server on PORT and a broker, metrics for Prometheus on PORT + 9. The broker's process is $broker.
cluster() {
    local home="$work/cluster-$1"
    mkdir -p "$home"
    printf '%s\n' "listenPort=$2" bindAddress=127.0.0.1 >"$home/namesrv.conf"
    printf '%s\n' brokerClusterName=finding brokerName=broker brokerId=0 "namesrvAddr=127.0.0.1:$2" \
        brokerIP1=127.0.0.1 bindAddress=127.0.0.1 "listenPort=$(($2 + 4))" "haListenPort=$(($2 + 6))" \
        "storePathRootDir=$home/store" "storePathCommitLog=$home/store/commitlog" mappedFileSizeCommitLog=33554432 \
        autoCreateTopicEnable=true timerWheelEnable=true metricsExporterType=PROM metricsPromExporterHost=127.0.0.1 \
        "metricsPromExporterPort=$(($2 + 9))" >"$home/broker.conf"
    ROCKETMQ_HOME="$home" java -Duser.home="$home" -Xmx256m -cp "$work/$1/lib/*" \
        org.apache.rocketmq.namesrv.NamesrvStartup -c "$home/namesrv.conf" >"$home/namesrv.log" 2>&1 &
    servers+=("$!")
    ROCKETMQ_HOME="$home" java -Duser.home="$home" -Xmx1g -XX:MaxDirectMemorySize=512m \
        --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \
        --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED -cp "$work/$1/lib/*" \
        org.apache.rocketmq.broker.BrokerStartup -c "$home/broker.conf" >"$home/broker.log" 2>&1 &
    broker=$!
    servers+=("$broker")
    for _ in $(seq 240); do
        grep -q "boot success" "$home/broker.log" && return
        sleep 0.5
    done
    tail -5 "$home/broker.log" >&2
    exit 2
}

# client VERSION PROGRAM ARGUMENTS: one source file with the Java client of that version.
client() {
    java -Duser.home="$work" -cp "$work/$1/lib/*" "$work/$2.java" "${@:3}" 2>"$work/client.err" | grep "^> " | cut -c3-
}

cat >"$work/Lag.java" <<'END'
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

public class Lag {
    static Path turns;
    static DefaultMQAdminExt admin;

    public static void main(String[] arguments) throws Exception {
        String nameServer = arguments[0];
        turns = Path.of(arguments[1]);
        DefaultMQProducer producer = new DefaultMQProducer("senders");
        producer.setNamesrvAddr(nameServer);
        producer.start();
        admin = new DefaultMQAdminExt();
        admin.setNamesrvAddr(nameServer);
        admin.start();
        send(producer, 8);

        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("readers");
        consumer.setNamesrvAddr(nameServer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe("orders", "*");
        consumer.setPersistConsumerOffsetInterval(1_000);
        AtomicInteger got = new AtomicInteger();
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            got.addAndGet(messages.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 0; i < 300 && (got.get() < 8 || lag() != 0); i++) {
            Thread.sleep(200);
        }
        // The paused member keeps what it has read and stores no offset beyond it.
        consumer.suspend();
        Thread.sleep(1_000);
        send(producer, 20);
        hand("paused");

        consumer.shutdown();
        send(producer, 20);
        hand("gone");
        System.exit(0);
    }

    static void send(DefaultMQProducer producer, int count) throws Exception {
        for (int i = 0; i < count; i++) {
            producer.send(new Message("orders", "order".getBytes()));
        }
    }

    /** The lag by the admin client; -1 while the group has no offset. */
    static long lag() {
        try {
            return admin.examineConsumeStats("readers").computeTotalDiff();
        } catch (Exception none) {
            return -1;
        }
    }

    /** Gives the turn to the script, and waits for it. */
    static void hand(String name) throws Exception {
        Thread.sleep(2_000);
        Files.writeString(turns.resolve(name + ".part"), String.valueOf(lag()));
        Files.move(turns.resolve(name + ".part"), turns.resolve(name));
        while (!Files.exists(turns.resolve(name + ".done"))) {
            Thread.sleep(100);
        }
    }
}
END

port=$(free_ports)
jars 5.4.0
cluster 5.4.0 "$port"
mkdir "$work/turns"
java -Duser.home="$work" -cp "$work/5.4.0/lib/*" "$work/Lag.java" "127.0.0.1:$port" "$work/turns" >"$work/client.log" 2>&1 &
servers+=("$!")

# turn NAME WORDS: what the metrics and the admin client say at this point.
turn() {
    for _ in $(seq 600); do [ -e "$work/turns/$1" ] && break; sleep 0.2; done
    [ -e "$work/turns/$1" ] || { cat "$work/client.log" >&2; exit 2; }
    admin=$(cat "$work/turns/$1")
    curl -sS "http://127.0.0.1:$((port + 9))/metrics" >"$work/metrics"
    metric=$(awk '/^rocketmq_consumer_lag_messages\{/ && /consumer_group="readers"/ && /is_retry="false"/ { print int($NF) }' "$work/metrics")
    echo "$2: rocketmq_consumer_lag_messages ${metric:-absent}, by the admin client $admin"
    touch "$work/turns/$1.done"
}

turn paused "a member is connected and paused"
with_member=$metric
turn gone "no member is connected"
# A parse error is 1; 3 are hints about names.
status=0
promtool check metrics <"$work/metrics" >"$work/promtool.log" 2>&1 || status=$?
[ "$status" != 1 ] || { echo "promtool cannot read the metrics" >&2; exit 1; }

if [ -n "$with_member" ] && [ "$with_member" -gt 0 ] && [ -z "$metric" ] && [ "$admin" -gt "$with_member" ]; then
    echo "As stated: without a member the lag has no series, though it grows."
else
    echo "Not as stated." >&2
    exit 1
fi
