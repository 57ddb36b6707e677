-- Balance of a user; always the sum of its records.
CREATE TABLE user_points (
    user_id BIGINT NOT NULL PRIMARY KEY,
    balance BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
