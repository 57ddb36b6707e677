-- The refunds of one order.
CREATE INDEX refund_record_order ON refund_record (order_id);
