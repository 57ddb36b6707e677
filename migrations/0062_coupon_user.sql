-- The coupons of a user, newest first.
CREATE INDEX coupon_user ON coupon (user_id, id);
