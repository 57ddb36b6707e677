-- The events of one order.
CREATE INDEX message_record_key ON message_record (msg_key);
