-- What was answered, as people may see it.
ALTER TABLE delivery_attempt ADD COLUMN answer TEXT;
