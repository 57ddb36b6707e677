import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.admin.OffsetWrapper;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * What the Java world does on a cluster, told by lines of input (words with blanks between); argument: name servers.
 *
 * topic NAME QUEUES             makes a topic on every broker: "topic NAME"
 * send TOPIC COUNT PREFIX       messages PREFIX-0.. with key PREFIX-n, tag A or B, property number=n: "sent TOPIC COUNT"
 * consume GROUP TOPIC FILTER [N]    a push consumer; "up GROUP", then per message "got GROUP topic queue offset keys body"
 * fail GROUP TOPIC FILTER       one that fails for good: what it takes goes to %DLQ%GROUP; "failed GROUP keys"
 *                               with N: member N of the group ("up GROUP N"), which it is stopped by as well
 * on BROKER TOPIC READ WRITE PERMISSION [TYPE]   a topic on one broker (its address): "on BROKER TOPIC"
 * group BROKER NAME             a group on one broker (its address): "group BROKER NAME"
 * set BROKER NAME VALUE         a setting of a broker (its address): "set BROKER NAME"
 * stop GROUP [N]                ends it, with its offsets committed: "stopped GROUP"
 * offsets GROUP TOPIC [MARK]    "offset GROUP broker queue consumerOffset brokerOffset" per queue, then "end GROUP [MARK]"
 *
 * Ends with its input.
 */
public class Operate {
    static final PrintStream OUT = System.out;

    static void say(String line) {
        synchronized (OUT) {
            OUT.println(line);
        }
    }

    /** The group, and which of its members, where the word at that place says so. */
    static String member(String[] words, int at) {
        return words.length > at ? words[1] + " " + words[at] : words[1];
    }

    static DefaultMQPushConsumer consumer(String namesrv, String[] words, boolean fails) throws Exception {
        String group = words[1];
        DefaultMQPushConsumer consumer = Patient.configured(new DefaultMQPushConsumer(group), namesrv);
        consumer.setInstanceName(member(words, 4).replace(' ', '-'));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPersistConsumerOffsetInterval(500);
        if (fails) {
            consumer.setMaxReconsumeTimes(0);
        }
        consumer.subscribe(words[2], words[3]);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                if (fails) {
                    say("failed " + group + " " + message.getKeys());
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
                say(String.join(" ", "got", group, message.getTopic(), Integer.toString(message.getQueueId()),
                    Long.toString(message.getQueueOffset()), String.valueOf(message.getKeys()),
                    new String(message.getBody(), StandardCharsets.UTF_8)));
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        return consumer;
    }

    static void make(DefaultMQAdminExt admin, String broker, TopicConfig topic) throws Exception {
        Patient.retrying(() -> {
            admin.createAndUpdateTopicConfig(broker, topic);
            return null;
        });
    }

    public static void main(String[] args) throws Exception {
        Patient.failAtOnce();
        // The client prints words of its own.
        System.setOut(System.err);
        DefaultMQProducer producer = Patient.configured(new DefaultMQProducer("java-operate"), args[0]);
        producer.start();
        DefaultMQAdminExt admin = Patient.configured(new DefaultMQAdminExt(Patient.TIMEOUT_MS), args[0]);
        admin.setInstanceName("java-operate-admin");
        admin.start();
        Map<String, DefaultMQPushConsumer> consumers = new HashMap<>();
        OUT.println("ready");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "topic": {
                    ClusterInfo cluster = Patient.retrying(admin::examineBrokerClusterInfo);
                    int queues = Integer.parseInt(words[2]);
                    for (BrokerData broker : cluster.getBrokerAddrTable().values()) {
                        make(admin, broker.selectBrokerAddr(), new TopicConfig(words[1], queues, queues, 6));
                    }
                    say("topic " + words[1]);
                    break;
                }
                case "send": {
                    int count = Integer.parseInt(words[2]);
                    for (int at = 0; at < count; at++) {
                        String key = words[3] + "-" + at;
                        Message message = new Message(words[1], at % 2 == 0 ? "A" : "B", key, key.getBytes(StandardCharsets.UTF_8));
                        message.putUserProperty("number", Integer.toString(at));
                        Patient.send(producer, message, key);
                    }
                    say("sent " + words[1] + " " + count);
                    break;
                }
                case "consume":
                case "fail":
                    boolean fails = words[0].equals("fail");
                    consumers.put(member(words, 4), Patient.started(() -> consumer(args[0], words, fails)));
                    say("up " + member(words, 4));
                    break;
                case "on": {
                    TopicConfig config = new TopicConfig(words[2], Integer.parseInt(words[3]), Integer.parseInt(words[4]),
                        Integer.parseInt(words[5]));
                    if (words.length > 6) {
                        config.getAttributes().put("+message.type", words[6]);
                    }
                    make(admin, words[1], config);
                    say("on " + words[1] + " " + words[2]);
                    break;
                }
                case "group": {
                    SubscriptionGroupConfig config = new SubscriptionGroupConfig();
                    config.setGroupName(words[2]);
                    Patient.retrying(() -> {
                        admin.createAndUpdateSubscriptionGroupConfig(words[1], config);
                        return null;
                    });
                    say("group " + words[1] + " " + words[2]);
                    break;
                }
                case "set": {
                    Properties settings = new Properties();
                    settings.setProperty(words[2], words[3]);
                    Patient.retrying(() -> {
                        admin.updateBrokerConfig(words[1], settings);
                        return null;
                    });
                    say("set " + words[1] + " " + words[2]);
                    break;
                }
                case "stop":
                    consumers.remove(member(words, 2)).shutdown();
                    say("stopped " + member(words, 2));
                    break;
                case "offsets": {
                    Map<MessageQueue, OffsetWrapper> table = new TreeMap<>(
                        Patient.retrying(() -> admin.examineConsumeStats(words[1], words[2]).getOffsetTable()));
                    table.forEach((queue, offset) -> say(String.join(" ", "offset", words[1], queue.getBrokerName(),
                        Integer.toString(queue.getQueueId()), Long.toString(offset.getConsumerOffset()),
                        Long.toString(offset.getBrokerOffset()))));
                    say("end " + member(words, 3));
                    break;
                }
                default:
                    throw new IllegalArgumentException(line);
            }
        }
        consumers.values().forEach(DefaultMQPushConsumer::shutdown);
        System.exit(0);
    }
}
