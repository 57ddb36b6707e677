import java.util.concurrent.Callable;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;

/** What all these programs need on a machine that is busy: time, a second attempt, and an end when that was no use. */
final class Patient {
    static final int ATTEMPTS = 10;
    static final int TIMEOUT_MS = 60_000;

    private Patient() {
    }

    /** A failure ends the program with its stack trace; threads of the client would keep it alive without its work. */
    static void failAtOnce() {
        Thread.setDefaultUncaughtExceptionHandler((thread, e) -> {
            e.printStackTrace();
            Runtime.getRuntime().halt(1);
        });
    }

    /** Questions to name servers and brokers have 3 s otherwise, and a route that does not come ends a start. */
    static <T extends ClientConfig> T configured(T client, String namesrv) {
        client.setNamesrvAddr(namesrv);
        client.setMqClientApiTimeout(TIMEOUT_MS);
        return client;
    }

    static <T> T retrying(Callable<T> work) throws Exception {
        for (int attempt = 1; ; attempt++) {
            try {
                return work.call();
            } catch (Exception e) {
                System.err.println("attempt " + attempt + ": " + e);
                if (attempt == ATTEMPTS) {
                    throw e;
                }
                Thread.sleep(1_000);
            }
        }
    }

    /** The client tries no send with a selector again, whatever its settings say: a broker that is busy refuses some. */
    static void send(DefaultMQProducer producer, Message message, String key) throws Exception {
        retrying(() -> {
            SendResult result = producer.send(message, new SelectMessageQueueByHash(), key, TIMEOUT_MS);
            if (result.getSendStatus() != SendStatus.SEND_OK) {
                throw new IllegalStateException(result.toString());
            }
            return result;
        });
    }

    /** Makes and starts a consumer; one whose start failed counts as started, and another one takes its place. */
    static DefaultMQPushConsumer started(Callable<DefaultMQPushConsumer> made) throws Exception {
        return retrying(() -> {
            DefaultMQPushConsumer consumer = made.call();
            try {
                consumer.start();
                return consumer;
            } catch (Exception e) {
                consumer.shutdown();
                throw e;
            }
        });
    }
}
