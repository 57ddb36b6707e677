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
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Consumer;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.cloud.function.context.FunctionRegistration;
import org.springframework.cloud.stream.function.StreamBridge;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.support.GenericApplicationContext;
import org.springframework.core.ResolvableType;
import org.springframework.messaging.Message;
import org.springframework.messaging.support.MessageBuilder;

/**
 * A service on Spring Cloud Stream: a function for each topic, with a group of its own, and a StreamBridge to send.
 * README.md in the folder above says what every such program does.
 */
@SpringBootApplication
public class Service {
    static final ObjectMapper JSON =
        new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);
    static final PrintStream OUT = System.out;
    static final Set<String> FAILED = ConcurrentHashMap.newKeySet();
    static volatile boolean healed;
    static volatile StreamBridge bridge;
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
            Message<?> message =
                MessageBuilder.withPayload(body).setHeader("KEYS", key).setHeader("TAGS", event).build();
            if (!bridge.send(event, message)) {
                throw new IllegalStateException(event + " was not sent");
            }
        }
        say(Map.of("sent", event, "key", key));
    }

    static void relay(Message<?> message) {
        String topic = (String) message.getHeaders().get("ROCKET_MQ_TOPIC");
        String key = (String) message.getHeaders().get("ROCKET_KEYS");
        String event = topic.toUpperCase().replace('-', '_');
        if (message.getPayload() instanceof Events.OrderCreatedEvent created) {
            // The framework's map calls its keys strings and holds numbers: Jackson cannot write it.
            created.productQuantityMap = new TreeMap<>(created.productQuantityMap);
        }
        say(Map.of("read", topic, "key", key, "tag", String.valueOf(message.getHeaders().get("ROCKET_TAGS")),
            "body", message.getPayload()));
        if (!event.equals(topic)) {
            Object body = message.getPayload();
            if (body instanceof Events.PaymentSuccessEvent paid && paid.timestamp == null) {
                paid.timestamp = System.currentTimeMillis();
            }
            send(event, key, body);
        }
    }

    /** Fails each message once, and those of one user until it is healed. */
    static void failing(Message<Map<String, Object>> message) {
        Map<String, Object> body = message.getPayload();
        String order = String.valueOf(body.get("orderId"));
        boolean first = FAILED.add(order);
        if (!healed && (first || unlucky.equals(String.valueOf(body.get("userId"))))) {
            say(Map.of("failed", order));
            throw new IllegalStateException("this handler fails");
        }
        say(Map.of("handled", order));
    }

    static void function(GenericApplicationContext context, String name, Consumer<?> function, Class<?> payload) {
        ResolvableType message = ResolvableType.forClassWithGenerics(Message.class,
            payload == Map.class ? ResolvableType.forClassWithGenerics(Map.class, String.class, Object.class)
                : ResolvableType.forClass(payload));
        FunctionRegistration<?> registration = new FunctionRegistration<>(function, name)
            .type(ResolvableType.forClassWithGenerics(Consumer.class, message).getType());
        context.registerBean(name, FunctionRegistration.class, () -> registration);
    }

    static void bind(Map<String, Object> settings, String function, String topic, String group) {
        String binding = "spring.cloud.stream.bindings." + function + "-in-0.";
        settings.put(binding + "destination", topic);
        settings.put(binding + "group", group);
        settings.put("spring.cloud.stream.rocketmq.bindings." + function + "-in-0.consumer.push.maxReconsumeTimes", 1);
        settings.merge("spring.cloud.function.definition", function, (all, one) -> all + ";" + one);
    }

    public static void main(String[] args) throws Exception {
        // The framework writes a log to the standard output, which is for our words only.
        System.setOut(System.err);
        String name = args[1];
        unlucky = args[2];
        List<String> topics = List.of(args).subList(3, args.length);
        Map<String, Object> settings = new HashMap<>();
        settings.put("spring.cloud.stream.rocketmq.binder.name-server", args[0]);
        // A bridge keeps the producers of so many destinations; by default ten, and each further one takes seconds.
        settings.put("spring.cloud.stream.dynamic-destination-cache-size", 64);
        settings.put("spring.main.web-application-type", "none");
        settings.put("logging.level.root", "warn");
        for (int at = 0; at < topics.size(); at++) {
            bind(settings, "on" + at, topics.get(at), name + "-" + topics.get(at));
        }
        bind(settings, "failing", "paid-order-success", name + "-failing");
        ConfigurableApplicationContext context = new SpringApplicationBuilder(Service.class)
            .properties(settings)
            .initializers(created -> {
                for (int at = 0; at < topics.size(); at++) {
                    String event = topics.get(at).toUpperCase().replace('-', '_');
                    Consumer<Message<?>> relay = Service::relay;
                    function((GenericApplicationContext) created, "on" + at, relay, Events.of(event));
                }
                Consumer<Message<Map<String, Object>>> failing = Service::failing;
                function((GenericApplicationContext) created, "failing", failing, Map.class);
                ((GenericApplicationContext) created).registerBean("bridged", Bridged.class);
            })
            .run();
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

    /** Takes the bridge before the first message comes. */
    static class Bridged {
        Bridged(StreamBridge taken) {
            bridge = taken;
        }
    }
}
