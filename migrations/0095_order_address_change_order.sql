-- The changes of one order.
CREATE INDEX order_address_change_order ON order_address_change (order_id, id);
