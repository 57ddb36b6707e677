-- Money on its way back. refund_key is payment:transaction, so that no transaction goes back twice.
CREATE TABLE refund_record (
    id BIGINT NOT NULL PRIMARY KEY,
    refund_key VARCHAR(96) NOT NULL,
    payment_id BIGINT NOT NULL,
    order_id BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    amount BIGINT NOT NULL,
    reason VARCHAR(200) NOT NULL,
    status SMALLINT NOT NULL,
    transaction_no VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (refund_key)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
