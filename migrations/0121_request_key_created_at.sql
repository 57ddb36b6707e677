-- The oldest keys, which go first.
CREATE INDEX request_key_created_at ON request_key (created_at);
