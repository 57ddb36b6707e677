-- Refunds of an order as its role knows them: those that were asked for, and those that payment made by itself.
CREATE TABLE order_refund (
    id BIGINT NOT NULL PRIMARY KEY,
    order_id BIGINT NOT NULL,
    refund_no VARCHAR(160),
    amount BIGINT NOT NULL,
    reason VARCHAR(200) NOT NULL,
    status SMALLINT NOT NULL,
    error VARCHAR(500),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (order_id, refund_no)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
