-- The messages about an order.
CREATE INDEX notification_order ON notification (order_id);
