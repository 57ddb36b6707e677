-- Orders in a state, newest first. Each change of an order moves one entry; without it a state that few orders are in is
-- looked for among all orders that there ever were.
CREATE INDEX orders_status ON orders (status, id);
