-- Every attempt of every outgoing call.
CREATE TABLE delivery_attempt (
    delivery_id BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    http_status BIGINT,
    error VARCHAR(500),
    PRIMARY KEY (delivery_id, attempt)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
