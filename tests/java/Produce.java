import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONWriter;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.math.BigDecimal;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.message.Message;

/**
 * A producer as existing Java services have it. Each line of its input is one message: topic, tag, keys and body, with
 * tabs between; or "@OrderCreated" and the like, the order id, and an event id that may be empty: then the body is made
 * from a class of such a service. Prints "sent" for each, and ends with its input. Its second argument, if there is one,
 * is how large bodies are compressed: LZ4, ZSTD, ZLIB.
 */
public class Produce {
    public static class OrderCreated {
        public Long orderId;
        public String orderNo;
        public Long userId;
        public BigDecimal totalAmount;
        public Map<String, Integer> productQuantityMap = new TreeMap<>();
        public String remark;
        public Long expireTime;
        public Long merchantId = 1L;
        public String channelId = "sandbox";
        public String eventId;
        public String[] promotions = {"SPRING"};
        public Object couponSnapshot;
    }

    public static class PaymentSuccess {
        public Long paymentId;
        public Long orderId;
        public String orderNo;
        public Long userId;
        public BigDecimal amount;
        public String paymentMethod = "ALIPAY";
        public String transactionNo;
        public String payTime;
        public String eventId;
        public BigDecimal channelFee = new BigDecimal("0.36");
    }

    public static class PaidOrderSuccess {
        public Long orderId;
        public Long userId;
        public BigDecimal payAmount;
        public Long payTime;
        public String eventId;
        public Integer retry = 0;
    }

    static Object body(String name, long order, String eventId) {
        String id = eventId.isEmpty() ? null : eventId;
        switch (name) {
            case "@OrderCreated":
                OrderCreated created = new OrderCreated();
                created.orderId = order;
                created.orderNo = "N" + order;
                created.userId = order + 1;
                created.totalAmount = new BigDecimal("59.80");
                created.productQuantityMap.put("TEA", 2);
                created.expireTime = System.currentTimeMillis() + 86_400_000L;
                created.eventId = id;
                return created;
            case "@PaymentSuccess":
                PaymentSuccess paid = new PaymentSuccess();
                paid.paymentId = order + 2;
                paid.orderId = order;
                paid.userId = order + 1;
                paid.amount = new BigDecimal("59.80");
                paid.payTime = "2026-01-31T08:00:00+08:00";
                paid.eventId = id;
                return paid;
            case "@PaidOrderSuccess":
                PaidOrderSuccess success = new PaidOrderSuccess();
                success.orderId = order;
                success.userId = order + 1;
                success.payAmount = new BigDecimal("59.80");
                success.payTime = System.currentTimeMillis() / 1000;
                success.eventId = id;
                return success;
            default:
                throw new IllegalArgumentException(name);
        }
    }

    public static void main(String[] args) throws Exception {
        Patient.failAtOnce();
        // The client prints words of its own.
        PrintStream out = System.out;
        System.setOut(System.err);
        DefaultMQProducer producer = Patient.configured(new DefaultMQProducer("java-producer-group"), args[0]);
        if (args.length > 1) {
            producer.setCompressType(CompressionType.of(args[1]));
        }
        producer.start();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] part = line.split("\t", -1);
            byte[] body;
            if (part[3].startsWith("@")) {
                Object made = body(part[3], Long.parseLong(part[2]), part[4]);
                body = JSON.toJSONBytes(made, JSONWriter.Feature.WriteNulls);
            } else {
                body = part[3].getBytes(StandardCharsets.UTF_8);
            }
            Message message = new Message(part[0], body);
            if (!part[1].isEmpty()) {
                message.setTags(part[1]);
            }
            if (!part[2].isEmpty()) {
                message.setKeys(part[2]);
            }
            Patient.send(producer, message, part[2]);
            out.println("sent");
        }
        producer.shutdown();
        System.exit(0);
    }
}
