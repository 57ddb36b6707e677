-- The orders of a user, newest first.
CREATE INDEX orders_user ON orders (user_id, id);
