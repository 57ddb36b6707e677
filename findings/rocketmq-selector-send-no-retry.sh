#!/usr/bin/env bash
# RocketMQ Java client 5.4.0 and 5.5.0: a send with a queue selector is tried once, whatever retryTimesWhenSendFailed
# says.
#
# Behaviour: setRetryTimesWhenSendFailed(5) makes send(message) try six times before it gives up. send(message,
# selector, argument), which is how messages are kept in order, gives up after the first try, with the error of the
# connection itself. Nothing says so where the setting is documented.
# Seen, with a broker that has just gone away:
#   client 5.4.0, send: tried 6 times, MQClientException
#   client 5.4.0, send with a selector: tried 1 time, RemotingConnectException
#   client 5.5.0: the same
# Why it matters: a producer that was given retries for the moment in which a broker restarts or is too busy loses them
# when its messages are to be in order. It has to repeat such sends itself.
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

# cluster VERSION PORT: a name server on PORT and a broker, whose process is $broker.
cluster() {
    local home="$work/cluster-$1"
    mkdir -p "$home"
    printf '%s\n' "listenPort=$2" bindAddress=127.0.0.1 >"$home/namesrv.conf"
    printf '%s\n' brokerClusterName=finding brokerName=broker brokerId=0 "namesrvAddr=127.0.0.1:$2" \
        brokerIP1=127.0.0.1 bindAddress=127.0.0.1 "listenPort=$(($2 + 4))" "haListenPort=$(($2 + 6))" \
        "storePathRootDir=$home/store" "storePathCommitLog=$home/store/commitlog" mappedFileSizeCommitLog=33554432 \
        autoCreateTopicEnable=true >"$home/broker.conf"
    ROCKETMQ_HOME="$home" java -Duser.home="$home" -Xmx256m -cp "$work/$1/lib/*" \
        org.apache.rocketmq.namesrv.NamesrvStartup -c "$home/namesrv.conf" >"$home/namesrv.log" 2>&1 &
    servers+=("$!")
    ROCKETMQ_HOME="$home" java -Duser.home="$home" -Xmx1g -XX:MaxDirectMemorySize=512m \
        --add-exports=java.base/sun.nio.ch=ALL-UNNAMED --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \
        --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.nio=ALL-UNNAMED -cp "$work/$1/lib/*" \
        org.apache.rocketmq.broker.BrokerStartup -c "$home/broker.conf" >"$home/broker.log" 2>&1 &
    broker=$!
    servers+=("$broker")
    # The program kills it, and the shell need not say so.
    disown "$broker"
    for _ in $(seq 240); do
        grep -q "boot success" "$home/broker.log" && return
        sleep 0.5
    done
    tail -5 "$home/broker.log" >&2
    exit 2
}

# client VERSION PROGRAM ARGUMENTS: one source file with the Java client of that version.
client() {
    java -Duser.home="$work" -cp "$work/$1/lib/*" "$work/$2.java" "${@:3}" \
        2>"$work/$1.err" | grep --line-buffered "^> " | cut -c3-
}

cat >"$work/Retries.java" <<'END'
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;

public class Retries {
    public static void main(String[] arguments) throws Exception {
        String version = arguments[1];
        long broker = Long.parseLong(arguments[2]);
        DefaultMQProducer producer = new DefaultMQProducer("senders");
        producer.setNamesrvAddr(arguments[0]);
        producer.setRetryTimesWhenSendFailed(5);
        producer.setSendMsgTimeout(60_000);
        producer.start();
        // Both ways work while the broker is there, and the route is known from now on.
        producer.send(new Message("orders", "first".getBytes()));
        producer.send(new Message("orders", "second".getBytes()), new SelectMessageQueueByHash(), "key");
        ProcessHandle.of(broker).get().destroyForcibly();
        ProcessHandle.of(broker).ifPresent(gone -> gone.onExit().join());

        for (boolean ordered : new boolean[] {false, true}) {
            Message message = new Message("orders", "third".getBytes());
            try {
                if (ordered) {
                    producer.send(message, new SelectMessageQueueByHash(), "key");
                } else {
                    producer.send(message);
                }
                System.out.println("> client " + version + ": sent after all");
            } catch (Exception refused) {
                String text = String.valueOf(refused.getMessage());
                int at = text.indexOf("Send [");
                String tries = at < 0 ? "1" : text.substring(at + 6, text.indexOf("]", at));
                String how = ordered ? ", send with a selector: tried " : ", send: tried ";
                String times = tries.equals("1") ? " time, " : " times, ";
                System.out.println("> client " + version + how + tries + times + refused.getClass().getSimpleName());
            }
        }
        System.exit(0);
    }
}
END

: >"$work/seen"
for version in 5.4.0 5.5.0; do
    port=$(free_ports)
    jars "$version"
    cluster "$version" "$port"
    client "$version" Retries "127.0.0.1:$port" "$version" "$broker" | tee -a "$work/seen"
done

if [ "$(grep -c ", send: tried 6 times, MQClientException$" "$work/seen")" = 2 ] &&
    [ "$(grep -c ", send with a selector: tried 1 time, RemotingConnectException$" "$work/seen")" = 2 ]; then
    echo "As stated: the setting counts for sends without a selector only."
else
    echo "Not as stated." >&2
    cat "$work"/*.err >&2
    exit 1
fi
