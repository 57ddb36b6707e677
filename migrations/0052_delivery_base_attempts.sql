-- Attempts made before somebody asked for the call once more: its schedule begins anew after them.
ALTER TABLE delivery ADD COLUMN base_attempts BIGINT;
