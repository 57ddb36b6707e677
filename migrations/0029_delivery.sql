-- Outgoing HTTP calls. next_at is NULL once a call succeeded or was given up.
CREATE TABLE delivery (
    id BIGINT NOT NULL PRIMARY KEY,
    kind SMALLINT NOT NULL,
    ref VARCHAR(128) NOT NULL,
    order_id BIGINT NOT NULL,
    url VARCHAR(500) NOT NULL,
    body TEXT NOT NULL,
    status SMALLINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT,
    last_error VARCHAR(500),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (kind, ref)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
