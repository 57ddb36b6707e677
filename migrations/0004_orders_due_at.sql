-- The walk of the timeouts.
CREATE INDEX orders_due_at ON orders (due_at, id);
