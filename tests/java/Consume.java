import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A push consumer as existing Java services have it: ordered, with a filter on tags. Arguments: name servers, group, and
 * pairs of topic and filter. Prints "ready", then a line for each message: topic, queue, offset, what
 * SelectMessageQueueByHash makes of its key, tag, keys, eventId, eventType, schemaVersion, source and body, with tabs
 * between. Ends with its input.
 */
public class Consume {
    public static void main(String[] args) throws Exception {
        Patient.failAtOnce();
        // The client prints words of its own.
        PrintStream out = System.out;
        System.setOut(System.err);
        DefaultMQPushConsumer consumer = Patient.started(() -> consumer(args, out));
        out.println("ready");
        while (System.in.read() >= 0) {
            // Until whoever started it closes the pipe.
        }
        consumer.shutdown();
        System.exit(0);
    }

    static DefaultMQPushConsumer consumer(String[] args, PrintStream out) throws Exception {
        DefaultMQPushConsumer consumer = Patient.configured(new DefaultMQPushConsumer(args[1]), args[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        for (int at = 2; at < args.length; at += 2) {
            consumer.subscribe(args[at], args[at + 1]);
        }
        consumer.registerMessageListener(new MessageListenerOrderly() {
            @Override
            public ConsumeOrderlyStatus consumeMessage(List<MessageExt> messages, ConsumeOrderlyContext context) {
                for (MessageExt message : messages) {
                    String line = String.join("\t",
                        message.getTopic(),
                        Integer.toString(message.getQueueId()),
                        Long.toString(message.getQueueOffset()),
                        Integer.toString(Math.abs(message.getKeys().hashCode())),
                        String.valueOf(message.getTags()),
                        message.getKeys(),
                        message.getUserProperty("eventId"),
                        message.getUserProperty("eventType"),
                        message.getUserProperty("schemaVersion"),
                        message.getUserProperty("source"),
                        new String(message.getBody(), StandardCharsets.UTF_8));
                    synchronized (out) {
                        out.println(line);
                    }
                }
                return ConsumeOrderlyStatus.SUCCESS;
            }
        });
        return consumer;
    }
}
