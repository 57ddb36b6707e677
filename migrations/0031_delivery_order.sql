-- The calls for one order.
CREATE INDEX delivery_order ON delivery (order_id);
