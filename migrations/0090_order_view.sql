-- Orders as the search shows them: the newest version that ORDER_DATA_SYNC told of each. id is the order's.
CREATE TABLE order_view (
    id BIGINT NOT NULL PRIMARY KEY,
    order_no VARCHAR(32) NOT NULL,
    user_id BIGINT NOT NULL,
    status SMALLINT NOT NULL,
    outcome VARCHAR(16) NOT NULL,
    version BIGINT NOT NULL,
    total_amount BIGINT NOT NULL,
    currency VARCHAR(3) NOT NULL,
    merchant_id BIGINT NOT NULL,
    channel_id VARCHAR(64) NOT NULL,
    remark VARCHAR(500) NOT NULL,
    cancel_reason VARCHAR(500) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
