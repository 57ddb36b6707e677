#!/usr/bin/env bash
# rocketmq-client-rust 1.0.0 and the RocketMQ Java producer 5.4.0: one message that Java compressed with LZ4 is
# dropped, and so is what was pulled behind it.
#
# Behaviour: the Java producer with setCompressType(LZ4) writes the body as an LZ4 frame. The Rust client reads LZ4 as
# a bare block with its length in front, cannot read the frame, and gives its caller only the messages before it in
# that pull. There is no error. It goes on behind the pull, so the committed offset passes messages that nobody was
# given.
# Seen (one queue: plain, LZ4, plain, plain; then, once these were pulled, "last"):
#   Java consumer: offsets 0 1 2 3 4
#   Rust consumer: offsets 0 4, committed at the broker 5
# Why it matters: a Java service that turns LZ4 on loses its own large messages for every Rust consumer, and plain
# messages of others besides; the lag stays 0. The bodies must be zlib (Java's default), or the consumer must notice
# missing offsets.
# Needs: a JDK of 17 or later, mvn, cargo of Rust 1.95 or later. Takes 4 to 8 minutes, nearly all of it compiling.
set -euo pipefail
for tool in java mvn cargo; do
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

cat >"$work/Send.java" <<'END'
import java.util.List;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

public class Send {
    public static void main(String[] arguments) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("senders");
        producer.setNamesrvAddr(arguments[0]);
        producer.setCompressType(CompressionType.LZ4);
        producer.start();
        for (int i = 1; i < arguments.length; i++) {
            // Bodies of 4 KiB and more are compressed.
            String body = arguments[i].equals("large") ? "large ".repeat(2_000) : arguments[i];
            producer.send(new Message("orders", body.getBytes()), (queues, message, number) -> queue(queues, 0), null);
            System.out.println("> sent " + arguments[i]);
        }
        System.exit(0);
    }

    static MessageQueue queue(List<MessageQueue> queues, int id) {
        return queues.stream().filter(queue -> queue.getQueueId() == id).findFirst().get();
    }
}
END
cat >"$work/Read.java" <<'END'
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

public class Read {
    public static void main(String[] arguments) throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer("java-readers");
        consumer.setNamesrvAddr(arguments[0]);
        consumer.start();
        MessageQueue queue = new MessageQueue("orders", "broker", 0);
        consumer.assign(List.of(queue));
        consumer.seekToBegin(queue);
        StringBuilder offsets = new StringBuilder("> Java consumer: offsets");
        for (int empty = 0; empty < 10; ) {
            List<MessageExt> messages = consumer.poll(500);
            empty = messages.isEmpty() ? empty + 1 : 0;
            messages.forEach(message -> offsets.append(' ').append(message.getQueueOffset()));
        }
        System.out.println(offsets);

        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.setNamesrvAddr(arguments[0]);
        admin.start();
        System.out.println("> " + admin.examineConsumeStats("rust-readers").getOffsetTable().get(queue).getConsumerOffset());
        System.exit(0);
    }
}
END
mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'END'
[package]
name = "program"
version = "0.0.0"
edition = "2021"

[dependencies]
rocketmq-client-rust = { version = "=1.0.0", default-features = false }
rocketmq-model = "=1.0.0"
rocketmq-observability = "=1.0.0"
rocketmq-runtime = "=1.0.0"

[profile.dev]
debug = false
END
cat >"$work/program/src/main.rs" <<'END'
#![recursion_limit = "512"]

use rocketmq_client_rust::{ClientRuntime, ClientRuntimeConfig, DefaultLitePullConsumer};
use rocketmq_model::common::consumer::consume_from_where::ConsumeFromWhere;
use rocketmq_observability::TelemetryRuntimeGuard;
use rocketmq_runtime::{RuntimeConfig, RuntimeOwner};
use std::error::Error;
use std::time::{Duration, Instant};

async fn consume(consumer: &DefaultLitePullConsumer) -> Result<(), Box<dyn Error>> {
    consumer.subscribe("orders").await?;
    consumer.start().await?;
    let end = Instant::now() + Duration::from_secs(90);

    while Instant::now() < end {
        for message in consumer.poll_with_timeout_zero_copy(500).await {
            let body = message.body().unwrap_or_default();
            println!("offset {}, {} bytes", message.queue_offset(), body.len());

            if &body[..] == b"last" {
                consumer.commit_all().await?;
                consumer.shutdown().await;
                return Ok(());
            }
        }
    }
    Err("the last message did not come".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let owner = RuntimeOwner::plan(RuntimeConfig::default())?.build()?;
    let runtime = ClientRuntime::try_new(
        owner.root_context().component("consumer"),
        ClientRuntimeConfig::default(),
        TelemetryRuntimeGuard::noop().handle(),
    )?;
    let consumer = DefaultLitePullConsumer::builder(runtime)
        .name_server_addr(std::env::args().nth(1).ok_or("which name server")?)
        .consumer_group("rust-readers")
        .consume_from_where(ConsumeFromWhere::ConsumeFromFirstOffset)
        .build()?;

    let result = owner.block_on(consume(&consumer));
    if let Err(error) = &result {
        println!("{error}");
    }
    std::process::exit(if result.is_ok() { 0 } else { 1 })
}
END

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$work/target}"
cargo build --quiet --manifest-path "$work/program/Cargo.toml"
port=$(free_ports)
jars 5.4.0
cluster 5.4.0 "$port"
client 5.4.0 Send "127.0.0.1:$port" first large small small >"$work/sent.log"

HOME="$work" "$CARGO_TARGET_DIR/debug/program" "127.0.0.1:$port" >"$work/rust.log" 2>"$work/rust.err" &
reader=$!
servers+=("$reader")
for _ in $(seq 300); do grep -q "^offset 0" "$work/rust.log" && break; sleep 0.2; done
sleep 5
client 5.4.0 Send "127.0.0.1:$port" last >>"$work/sent.log"
wait "$reader" || { cat "$work/rust.log" "$work/rust.err" >&2; exit 1; }

client 5.4.0 Read "127.0.0.1:$port" >"$work/java.log"
java=$(head -n1 "$work/java.log")
rust="Rust consumer: offsets$(awk '/^offset/ { printf " %d", $2 }' "$work/rust.log"), committed at the broker $(tail -n1 "$work/java.log")"
echo "$java"
echo "$rust"

if [ "$java" = "Java consumer: offsets 0 1 2 3 4" ] && [ "$rust" = "Rust consumer: offsets 0 4, committed at the broker 5" ]; then
    echo "As stated: three messages were passed over, two of them plain."
else
    echo "Not as stated." >&2
    exit 1
fi
