-- Only what changed is in it.
CREATE INDEX stock_sync_due ON stock (sync_due, sku);
