-- The movements of one SKU, in order.
CREATE INDEX stock_ledger_sku ON stock_ledger (sku, id);
