-- Who has taken the message last: a number that each claim draws for itself.
ALTER TABLE message_retry_log ADD COLUMN claim_id BIGINT;
