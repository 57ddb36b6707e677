-- What a coupon took off; total_amount is what is left to be paid.
ALTER TABLE orders ADD COLUMN discount BIGINT NOT NULL DEFAULT 0;
