-- How the local transaction behind a half message went: what the broker is told when it asks.
CREATE TABLE message_tx_state (
    tx_id VARCHAR(128) NOT NULL PRIMARY KEY,
    event_id VARCHAR(128) NOT NULL,
    msg_key VARCHAR(64) NOT NULL,
    state SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    resumed_at BIGINT
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
