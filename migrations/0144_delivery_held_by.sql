-- The endpoint that the call waits for, as a number; NULL when it waits for none.
ALTER TABLE delivery ADD COLUMN held_by BIGINT;
