package shop;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.spring.annotation.RocketMQMessageListener;
import org.apache.rocketmq.spring.core.RocketMQListener;
import org.apache.rocketmq.spring.core.RocketMQTemplate;
import org.apache.rocketmq.spring.support.RocketMQHeaders;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.messaging.support.MessageBuilder;
import org.springframework.stereotype.Component;

/**
 * A service on rocketmq-spring: a listener for each topic, with a group of its own, and a RocketMQTemplate to send.
 * README.md in the folder above says what every such program does.
 */
@SpringBootApplication
public class Service {
    static final ObjectMapper JSON =
        new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);
    static final PrintStream OUT = System.out;
    static volatile boolean healed;
    static volatile RocketMQTemplate template;
    static String unlucky;

    static synchronized void say(Map<String, ?> what) {
        try {
            OUT.println(JSON.writeValueAsString(what));
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    /** Twice, as a service does that was not sure of the first time. */
    static void send(String event, String key, Object body) {
        for (int time = 0; time < 2; time++) {
            template.syncSendOrderly(event + ":" + event,
                MessageBuilder.withPayload(body).setHeader(RocketMQHeaders.KEYS, key).build(), key);
        }
        say(Map.of("sent", event, "key", key));
    }

    /** What a listener does with a message, once the framework has made its type of it. */
    static void relay(String topic, String key, String tag, Object body) {
        String event = topic.toUpperCase().replace('-', '_');
        say(Map.of("read", topic, "key", key, "tag", tag, "body", body));
        if (!event.equals(topic)) {
            send(event, key, body);
        }
    }

    /** Those that want the message itself. */
    abstract static class Whole implements RocketMQListener<MessageExt> {
        @Override
        public void onMessage(MessageExt message) {
            try {
                Map<?, ?> body = JSON.readValue(message.getBody(), Map.class);
                relay(message.getTopic(), message.getKeys(), message.getTags(), body);
            } catch (java.io.IOException error) {
                throw new IllegalStateException(error);
            }
        }
    }

    /** Those that want the event in the type of this house get no key and no tag from the framework. */
    @Component
    @RocketMQMessageListener(topic = "order-created", consumerGroup = "${name}-order-created")
    static class OnOrderCreated implements RocketMQListener<Events.OrderCreatedEvent> {
        @Override
        public void onMessage(Events.OrderCreatedEvent event) {
            relay("order-created", event.orderId.toString(), "ORDER_CREATED", event);
        }
    }

    @Component
    @RocketMQMessageListener(topic = "payment-success", consumerGroup = "${name}-payment-success")
    static class OnPaymentSuccess implements RocketMQListener<Events.PaymentSuccessEvent> {
        @Override
        public void onMessage(Events.PaymentSuccessEvent event) {
            event.timestamp = event.timestamp == null ? System.currentTimeMillis() : event.timestamp;
            relay("payment-success", event.orderId.toString(), "PAYMENT_SUCCESS", event);
        }
    }

    /** Fails each message once, and those of one user until it is healed. */
    @Component
    @RocketMQMessageListener(topic = "paid-order-success", consumerGroup = "${name}-failing", maxReconsumeTimes = 1)
    static class Failing implements RocketMQListener<MessageExt> {
        @Override
        public void onMessage(MessageExt message) {
            Map<?, ?> body;
            try {
                body = JSON.readValue(message.getBody(), Map.class);
            } catch (java.io.IOException error) {
                throw new IllegalStateException(error);
            }
            int attempt = message.getReconsumeTimes() + 1;
            if (!healed && (attempt == 1 || unlucky.equals(body.get("userId")))) {
                say(Map.of("failed", body.get("orderId"), "attempt", attempt));
                throw new IllegalStateException("this listener fails");
            }
            say(Map.of("handled", body.get("orderId"), "attempt", attempt));
        }
    }

    /** Takes the template before the first message comes. */
    @Component
    static class Templated {
        Templated(RocketMQTemplate taken) {
            template = taken;
        }
    }

    public static void main(String[] args) throws Exception {
        // The framework writes a log to the standard output, which is for our words only.
        System.setOut(System.err);
        unlucky = args[2];
        Map<String, Object> settings = new HashMap<>();
        settings.put("rocketmq.name-server", args[0]);
        settings.put("rocketmq.producer.group", args[1] + "-producer");
        settings.put("name", args[1]);
        settings.put("spring.main.web-application-type", "none");
        settings.put("logging.level.root", "warn");
        ConfigurableApplicationContext context = new SpringApplicationBuilder(Service.class).properties(settings).run();
        say(Map.of("ready", true));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Map<?, ?> order = JSON.readValue(line, Map.class);
            if (order.get("heal") != null) {
                healed = true;
            } else {
                String event = (String) order.get("event");
                send(event, (String) order.get("key"), JSON.convertValue(order.get("body"), Events.of(event)));
            }
        }
        context.close();
        System.exit(0);
    }
}
