-- Orders of a user, newest first.
CREATE INDEX order_view_user ON order_view (user_id, id);
