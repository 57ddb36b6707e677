-- Orders in a state, newest first.
CREATE INDEX order_view_status ON order_view (status, id);
