-- Requests with an Idempotency-Key whose repetition nothing else would tell: what each was, and what it was answered. The
-- id is a digest of what is done, by whom, and of the key. Rows of old go with new ones.
CREATE TABLE request_key (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    request_hash VARCHAR(64) NOT NULL,
    answer VARCHAR(500) NOT NULL,
    created_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
