-- Who has taken the row last: a number that each claim draws for itself.
ALTER TABLE message_record ADD COLUMN claim_id BIGINT;
