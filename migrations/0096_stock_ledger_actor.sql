-- Name of the API key of whoever changed the level by hand.
ALTER TABLE stock_ledger ADD COLUMN actor VARCHAR(100);
