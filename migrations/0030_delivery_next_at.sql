-- What is to be called, and when.
CREATE INDEX delivery_next_at ON delivery (next_at);
