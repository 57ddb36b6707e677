-- How many a user has of a template, and how many there are.
CREATE INDEX coupon_of_template ON coupon (template, user_id);
