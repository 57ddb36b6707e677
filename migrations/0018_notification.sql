-- What a user was told inside the application.
CREATE TABLE notification (
    id BIGINT NOT NULL PRIMARY KEY,
    event_id VARCHAR(96) NOT NULL,
    user_id BIGINT NOT NULL,
    order_id BIGINT NOT NULL,
    template VARCHAR(64) NOT NULL,
    params TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (event_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
