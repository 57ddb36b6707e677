-- Messages that wait for another attempt. next_at and open_key are NULL once that is over.
CREATE TABLE message_retry_log (
    id BIGINT NOT NULL PRIMARY KEY,
    consumer_group VARCHAR(64) NOT NULL,
    message_id VARCHAR(128) NOT NULL,
    topic VARCHAR(128) NOT NULL,
    tag VARCHAR(64) NOT NULL,
    msg_key VARCHAR(64) NOT NULL,
    body LONGBLOB NOT NULL,
    properties TEXT NOT NULL,
    status SMALLINT NOT NULL,
    blocks SMALLINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT,
    open_key VARCHAR(64),
    first_failed_at BIGINT NOT NULL,
    last_error VARCHAR(500) NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (consumer_group, message_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
