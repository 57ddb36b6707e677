-- Every movement of stock. order_id 0: an operator's.
CREATE TABLE stock_ledger (
    id BIGINT NOT NULL PRIMARY KEY,
    sku VARCHAR(64) NOT NULL,
    order_id BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    d_available BIGINT NOT NULL,
    d_frozen BIGINT NOT NULL,
    d_sold BIGINT NOT NULL,
    reason VARCHAR(200) NOT NULL,
    created_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
