-- Outbox and send log. next_at is NULL once a row is sent or given up, so that its index holds only work.
CREATE TABLE message_record (
    id BIGINT NOT NULL PRIMARY KEY,
    event_id VARCHAR(128) NOT NULL,
    topic VARCHAR(128) NOT NULL,
    tag VARCHAR(64) NOT NULL,
    msg_key VARCHAR(64) NOT NULL,
    body LONGBLOB NOT NULL,
    properties TEXT NOT NULL,
    status SMALLINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT,
    last_error VARCHAR(500),
    created_at BIGINT NOT NULL,
    sent_at BIGINT,
    UNIQUE (event_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
