-- What is held for an order. No lines: the tombstone of a release that came before its freeze.
CREATE TABLE stock_reservation (
    order_id BIGINT NOT NULL PRIMARY KEY,
    status SMALLINT NOT NULL,
    items TEXT NOT NULL,
    reason VARCHAR(500) NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
