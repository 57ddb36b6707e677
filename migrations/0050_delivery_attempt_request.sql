-- What was sent, as people may see it: secrets masked, long bodies cut.
ALTER TABLE delivery_attempt ADD COLUMN request TEXT;
