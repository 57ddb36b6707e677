-- When INVENTORY_SYNC was last written for this SKU, epoch ms.
ALTER TABLE stock ADD COLUMN synced_at BIGINT NOT NULL DEFAULT 0;
