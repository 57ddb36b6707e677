-- What is to be sent, and when.
CREATE INDEX message_record_next_at ON message_record (next_at);
