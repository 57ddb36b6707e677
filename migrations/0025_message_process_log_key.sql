-- What was consumed for one order.
CREATE INDEX message_process_log_key ON message_process_log (msg_key);
