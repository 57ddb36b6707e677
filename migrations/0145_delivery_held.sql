-- The calls that wait for an endpoint, the oldest first.
CREATE INDEX delivery_held ON delivery (held_by, id);
