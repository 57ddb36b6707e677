-- Refunds whose points were taken back; what they took in all is the row of kind 2 in points_record.
CREATE TABLE points_reversal (
    refund_id BIGINT NOT NULL PRIMARY KEY,
    order_id BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    paid BIGINT NOT NULL,
    created_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
