#!/usr/bin/env bash
# RocketMQ broker 5.4.0, metrics for Prometheus: messages with a delivery time and transaction messages come out of a
# topic and never went in.
#
# Behaviour: rocketmq_messages_in_total counts a normal and a delay-level message under its topic. A message with a
# delivery time is counted under rmq_sys_wheel_timer and a transaction message under RMQ_SYS_TRANS_HALF_TOPIC, and
# nothing is counted under their own topic when they arrive there. rocketmq_messages_out_total counts all of them
# under their own topic.
# Seen (in is counted by the producer's topic; "-" is no series):
#   normal        sent 4, in 4, out 4
#   level         sent 4, in 4, out 4
#   timed         sent 4, in -, out 4
#   transaction   sent 4, in -, out 4
# Why it matters: "in minus out" of a topic, or the rate of its incoming messages, is wrong by exactly these messages:
# the difference goes below zero, and an alert "nothing comes in" fires (or, with no series, never can) on a topic
# that lives on them.
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

cat >"$work/Kinds.java" <<'END'
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

public class Kinds {
    public static void main(String[] arguments) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer("senders");
        producer.setNamesrvAddr(arguments[0]);
        producer.setTransactionListener(new TransactionListener() {
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }

            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();

        for (int i = 0; i < 4; i++) {
            producer.send(message("normal"));
            Message level = message("level");
            level.setDelayTimeLevel(1);
            producer.send(level);
            Message timed = message("timed");
            timed.setDelayTimeMs(2_000);
            producer.send(timed);
            producer.sendMessageInTransaction(message("transaction"), null);
        }

        AtomicInteger got = new AtomicInteger();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("readers");
        consumer.setNamesrvAddr(arguments[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        for (String topic : new String[] {"normal", "level", "timed", "transaction"}) {
            consumer.subscribe(topic, "*");
        }
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            got.addAndGet(messages.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        for (int i = 0; i < 300 && got.get() < 16; i++) {
            Thread.sleep(200);
        }
        System.out.println("> " + got.get() + " of 16 messages received");
        System.exit(0);
    }

    static Message message(String topic) {
        return new Message(topic, "order".getBytes());
    }
}
END

port=$(free_ports)
jars 5.4.0
cluster 5.4.0 "$port"
client 5.4.0 Kinds "127.0.0.1:$port"
sleep 2
curl -sS "http://127.0.0.1:$((port + 9))/metrics" >"$work/metrics"
# A parse error is 1; 3 are hints about names.
status=0
promtool check metrics <"$work/metrics" >"$work/promtool.log" 2>&1 || status=$?
[ "$status" != 1 ] || { echo "promtool cannot read the metrics" >&2; exit 1; }

# value METRIC TOPIC: the sum of its series, nothing when there is none.
value() {
    awk -v metric="rocketmq_messages_$1_total{" -v topic="topic=\"$2\"" \
        'index($0, metric) == 1 && index($0, topic) { sum += $NF; found = 1 } END { if (found) print sum }' "$work/metrics"
}

seen=
for topic in normal level timed transaction; do
    in=$(value in "$topic")
    out=$(value out "$topic")
    printf '%-13s sent 4, in %s, out %s\n' "$topic" "${in:--}" "${out:--}"
    seen="$seen $topic:${in:--}:${out:--}"
done
for topic in rmq_sys_wheel_timer RMQ_SYS_TRANS_HALF_TOPIC; do echo "in, of the broker's own topic $topic: $(value in "$topic")"; done

if [ "$seen" = " normal:4:4 level:4:4 timed:-:4 transaction:-:4" ]; then
    echo "As stated: timed and transaction messages come out of their topic and never went in."
else
    echo "Not as stated." >&2
    exit 1
fi
