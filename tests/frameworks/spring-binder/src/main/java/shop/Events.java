package shop;

import java.math.BigDecimal;
import java.util.Map;

/** The events as the classes of this house have them: what it does not know of an event is not there. */
public class Events {
    public static class OrderCreatedEvent {
        public Long orderId;
        public String orderNo;
        public Long userId;
        public BigDecimal totalAmount;
        public Map<Long, Integer> productQuantityMap;
        public String remark;
        public Long timestamp;
        public String eventId;
    }

    public static class PaymentSuccessEvent {
        public Long paymentId;
        public Long orderId;
        public String orderNo;
        public Long userId;
        public BigDecimal amount;
        public String paymentMethod;
        public String transactionNo;
        public Long timestamp;
        public String eventId;
    }

    /** The type into which an event is read. */
    static Class<?> of(String event) {
        return switch (event) {
            case "ORDER_CREATED" -> OrderCreatedEvent.class;
            case "PAYMENT_SUCCESS" -> PaymentSuccessEvent.class;
            default -> Map.class;
        };
    }
}
