-- Inbox: which group has handled which event, and how it went.
CREATE TABLE message_process_log (
    consumer_group VARCHAR(64) NOT NULL,
    message_id VARCHAR(128) NOT NULL,
    batch_id BIGINT NOT NULL,
    topic VARCHAR(128) NOT NULL,
    msg_key VARCHAR(64) NOT NULL,
    outcome SMALLINT NOT NULL,
    reason VARCHAR(500),
    consumed_at BIGINT NOT NULL,
    PRIMARY KEY (consumer_group, message_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
