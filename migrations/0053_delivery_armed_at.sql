-- Since when it is to be made, where that is not since created_at.
ALTER TABLE delivery ADD COLUMN armed_at BIGINT;
