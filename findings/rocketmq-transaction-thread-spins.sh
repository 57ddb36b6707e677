#!/usr/bin/env bash
# RocketMQ broker 5.5.0: after a few transaction messages one of its threads keeps a core busy though nothing is to
# do.
#
# Behaviour: once transaction messages were committed, the thread that batches their end (TransactionalOpBatchService)
# does not come to rest, with nobody connected and nothing to do. The broker 5.4.0 does not do this with the same
# messages.
# Seen, over 10 s, after ten committed transaction messages and 20 s of rest, as a share of one core:
#   broker 5.4.0: before 0 %, after 0 %
#   broker 5.5.0: before 0 %, after 88 %
# The check asks for 5 % and for ten times the share of 5.4.0 (a loaded machine gives the thread less).
# Why it matters: an update of the broker costs up to a core for every broker that transaction messages were ever sent
# to since its start, which looks like load.
# Needs: Linux, a JDK of 17 or later, mvn. Takes about 2 minutes.
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

cat >"$work/Commit.java" <<'END'
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

public class Commit {
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
        for (int i = 0; i < 10; i++) {
            System.out.println("> " + producer.sendMessageInTransaction(new Message("orders", "order".getBytes()), null).getLocalTransactionState());
        }
        producer.shutdown();
        System.exit(0);
    }
}
END

# Ticks of the processor that the thread has used. Linux keeps the first 15 characters of its name.
ticks() {
    local task
    for task in "/proc/$broker/task"/*; do
        if [ "$(cat "$task/comm" 2>/dev/null)" = TransactionalOp ]; then
            sed 's/.*) //' "$task/stat"
        fi
    done | awk '{ sum += $12 + $13 } END { print sum + 0 }'
}

# Its share of one core over 10 seconds, in per cent.
share() {
    local before start now
    before=$(ticks)
    start=$(date +%s%N)
    sleep 10
    now=$(ticks)
    echo "$before $now $(getconf CLK_TCK) $start $(date +%s%N)" | awk '{ printf "%d", 100 * ($2 - $1) / $3 / (($5 - $4) / 1e9) }'
}

declare -A after
for version in 5.4.0 5.5.0; do
    jars "$version"
    port=$(free_ports)
    cluster "$version" "$port"
    sleep 5
    quiet=$(share)
    committed=$(client "$version" Commit "127.0.0.1:$port" | grep -c COMMIT_MESSAGE)
    sleep 20
    after[$version]=$(share)
    echo "broker $version: $committed transaction messages committed; before $quiet %, after ${after[$version]} %"
    kill -9 "${servers[@]}"
    wait "${servers[@]}" 2>/dev/null || true
    servers=()
done

if [ "${after[5.5.0]}" -ge 5 ] && [ "${after[5.5.0]}" -ge $((10 * after[5.4.0])) ]; then
    echo "As stated: the thread of 5.5.0 does not rest again."
else
    echo "Not as stated." >&2
    exit 1
fi
