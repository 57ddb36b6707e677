-- One row per payment. kind 1: of a shop order. A closed row of amount 0 is the tombstone of a cancel that came first.
CREATE TABLE payment_record (
    id BIGINT NOT NULL PRIMARY KEY,
    kind SMALLINT NOT NULL,
    order_id BIGINT NOT NULL,
    order_no VARCHAR(32) NOT NULL,
    user_id BIGINT NOT NULL,
    merchant_id BIGINT NOT NULL,
    channel_id VARCHAR(64) NOT NULL,
    amount BIGINT NOT NULL,
    currency VARCHAR(3) NOT NULL,
    status SMALLINT NOT NULL,
    version BIGINT NOT NULL,
    expire_time BIGINT NOT NULL,
    transaction_no VARCHAR(64),
    payment_method VARCHAR(32),
    pay_time BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (order_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
