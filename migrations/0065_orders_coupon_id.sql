-- The coupon that an order was placed with.
ALTER TABLE orders ADD COLUMN coupon_id BIGINT;
