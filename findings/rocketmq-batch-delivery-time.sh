#!/usr/bin/env bash
# RocketMQ Java client 5.4.0 and 5.5.0: a batch of messages with a delivery time is sent and delivered at once by one,
# and refused by the other.
#
# Behaviour: with the client 5.4.0 a list of messages that each have setDelayTimeMs(30000) is sent with SEND_OK, and a
# consumer gets all of them within moments: the delay is forgotten without a word. A single message with the same call
# waits. The client 5.5.0 refuses the same list before it is sent. (Both refuse a list with a delay level.) The broker
# is 5.4.0 in both cases.
# Seen:
#   client 5.4.0, list of 3: SEND_OK; 3 of 3 received in 4 s although 30 s were asked for
#   client 5.4.0, one message: SEND_OK; 0 of 1 received in 4 s although 30 s were asked for
#   client 5.5.0, list of 3: MQClientException: Failed to initiate the MessageBatch
# Why it matters: a timeout that is sent in a batch fires at once (an order is canceled before it can be paid), and an
# update of the client turns the same code into an exception.
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

cat >"$work/Batch.java" <<'END'
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

public class Batch {
    public static void main(String[] arguments) throws Exception {
        String nameServer = arguments[0];
        String version = arguments[1];
        DefaultMQProducer producer = new DefaultMQProducer("senders");
        producer.setNamesrvAddr(nameServer);
        producer.start();

        for (int count : new int[] {3, 1}) {
            String topic = "timed-" + version.replace('.', '-') + "-" + count;
            List<Message> messages = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                Message message = new Message(topic, ("message " + i).getBytes());
                message.setDelayTimeMs(30_000);
                messages.add(message);
            }

            String what = "> client " + version + ", " + (count == 1 ? "one message: " : "list of " + count + ": ");
            try {
                SendResult sent = count == 1 ? producer.send(messages.get(0)) : producer.send(messages);
                int got = receive(nameServer, topic, 4_000);
                System.out.println(what + sent.getSendStatus() + "; " + got + " of " + count + " received in 4 s although 30 s were asked for");
            } catch (Exception refused) {
                System.out.println(what + refused.getClass().getSimpleName() + ": " + refused.getMessage().lines().findFirst().get());
            }
        }
        System.exit(0);
    }

    static int receive(String nameServer, String topic, long forMs) throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer("readers-" + topic);
        consumer.setNamesrvAddr(nameServer);
        consumer.start();
        Collection<MessageQueue> queues = consumer.fetchMessageQueues(topic);
        consumer.assign(queues);
        for (MessageQueue queue : queues) {
            consumer.seekToBegin(queue);
        }

        int got = 0;
        long end = System.currentTimeMillis() + forMs;
        while (System.currentTimeMillis() < end) {
            List<MessageExt> messages = consumer.poll(200);
            got += messages.size();
        }
        consumer.shutdown();
        return got;
    }
}
END

port=$(free_ports)
jars 5.4.0
jars 5.5.0
cluster 5.4.0 "$port"
for version in 5.4.0 5.5.0; do client "$version" Batch "127.0.0.1:$port" "$version"; done | tee "$work/seen"

if grep -q "^client 5.4.0, list of 3: SEND_OK; 3 of 3 received" "$work/seen" &&
    grep -q "^client 5.4.0, one message: SEND_OK; 0 of 1 received" "$work/seen" &&
    grep -q "^client 5.5.0, list of 3: MQClientException" "$work/seen"; then
    echo "As stated: 5.4.0 forgets the delivery time of a batch, 5.5.0 refuses the batch."
else
    echo "Not as stated." >&2
    cat "$work/client.err" >&2
    exit 1
fi
