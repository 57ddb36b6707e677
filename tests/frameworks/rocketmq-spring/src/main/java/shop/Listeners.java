package shop;

import org.apache.rocketmq.spring.annotation.RocketMQMessageListener;
import org.springframework.stereotype.Component;

/** The listeners that want the message itself: one for each topic, as rocketmq-spring has them. */
class Listeners {
    @Component
    @RocketMQMessageListener(topic = "payment-close-requested", consumerGroup = "${name}-payment-close-requested")
    static class OnPaymentCloseRequested extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "paid-order-success", consumerGroup = "${name}-paid-order-success")
    static class OnPaidOrderSuccess extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "order-canceled", consumerGroup = "${name}-order-canceled")
    static class OnOrderCanceled extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "inventory-deduct", consumerGroup = "${name}-inventory-deduct")
    static class OnInventoryDeduct extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "inventory-release", consumerGroup = "${name}-inventory-release")
    static class OnInventoryRelease extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "order-data-sync", consumerGroup = "${name}-order-data-sync")
    static class OnOrderDataSync extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "refund-requested", consumerGroup = "${name}-refund-requested")
    static class OnRefundRequested extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "stock-frozen", consumerGroup = "${name}-stock-frozen")
    static class OnStockFrozen extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "stock-freeze-failed", consumerGroup = "${name}-stock-freeze-failed")
    static class OnStockFreezeFailed extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "inventory-sync", consumerGroup = "${name}-inventory-sync")
    static class OnInventorySync extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "payment-close-result", consumerGroup = "${name}-payment-close-result")
    static class OnPaymentCloseResult extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "refund-success", consumerGroup = "${name}-refund-success")
    static class OnRefundSuccess extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "refund-failed", consumerGroup = "${name}-refund-failed")
    static class OnRefundFailed extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "day-statistics", consumerGroup = "${name}-day-statistics")
    static class OnDayStatistics extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "merchant-changed", consumerGroup = "${name}-merchant-changed")
    static class OnMerchantChanged extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "COUPON_LOCKED", consumerGroup = "${name}-COUPON_LOCKED")
    static class OnCouponLocked extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "COUPON_USED", consumerGroup = "${name}-COUPON_USED")
    static class OnCouponUsed extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "COUPON_RELEASED", consumerGroup = "${name}-COUPON_RELEASED")
    static class OnCouponReleased extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "CACHE_INVALIDATE", consumerGroup = "${name}-CACHE_INVALIDATE")
    static class OnCacheInvalidate extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "CALLBACK_SUBMIT", consumerGroup = "${name}-CALLBACK_SUBMIT")
    static class OnCallbackSubmit extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "TRIGGER_ORDER_FULFILL", consumerGroup = "${name}-TRIGGER_ORDER_FULFILL")
    static class OnTriggerOrderFulfill extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_FULFILL_SUCCESS", consumerGroup = "${name}-ORDER_FULFILL_SUCCESS")
    static class OnOrderFulfillSuccess extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_FULFILL_REFUSED", consumerGroup = "${name}-ORDER_FULFILL_REFUSED")
    static class OnOrderFulfillRefused extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_OUT_STOCK", consumerGroup = "${name}-ORDER_OUT_STOCK")
    static class OnOrderOutStock extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_DELIVERY", consumerGroup = "${name}-ORDER_DELIVERY")
    static class OnOrderDelivery extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_SIGNED", consumerGroup = "${name}-ORDER_SIGNED")
    static class OnOrderSigned extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "PAY_TIMEOUT_DELAY", consumerGroup = "${name}-PAY_TIMEOUT_DELAY")
    static class OnPayTimeoutDelay extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "SMS_NOTIFICATION", consumerGroup = "${name}-SMS_NOTIFICATION")
    static class OnSmsNotification extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "EMAIL_NOTIFICATION", consumerGroup = "${name}-EMAIL_NOTIFICATION")
    static class OnEmailNotification extends Service.Whole {
    }

    @Component
    @RocketMQMessageListener(topic = "ORDER_NOTIFY", consumerGroup = "${name}-ORDER_NOTIFY")
    static class OnOrderNotify extends Service.Whole {
    }
}
