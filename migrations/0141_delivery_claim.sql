-- Who has taken the call last: a number that each claim draws for itself.
ALTER TABLE delivery ADD COLUMN claim_id BIGINT;
