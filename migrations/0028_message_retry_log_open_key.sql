-- Which keys wait.
CREATE INDEX message_retry_log_open_key ON message_retry_log (consumer_group, open_key);
