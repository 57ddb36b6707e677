-- 1: changed since INVENTORY_SYNC told its level; NULL: told.
ALTER TABLE stock ADD COLUMN sync_due SMALLINT DEFAULT 1;
