-- What is due of one kind of call, however much others leave open. The index by next_at alone goes once the version before
-- this one is gone.
CREATE INDEX delivery_kind_due ON delivery (kind, next_at);
