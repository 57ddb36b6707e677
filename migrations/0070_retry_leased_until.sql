-- Until when a retry lane holds the message; NULL while none does.
ALTER TABLE message_retry_log ADD COLUMN leased_until BIGINT;
