-- What is to be tried again, and when.
CREATE INDEX message_retry_log_next_at ON message_retry_log (consumer_group, next_at);
