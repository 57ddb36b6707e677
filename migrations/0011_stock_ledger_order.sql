-- The movements of one order.
CREATE INDEX stock_ledger_order ON stock_ledger (order_id);
