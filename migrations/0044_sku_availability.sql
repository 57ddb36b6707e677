-- What the stock role last told of each SKU (INVENTORY_SYNC), for the order role.
CREATE TABLE sku_availability (
    sku VARCHAR(64) NOT NULL PRIMARY KEY,
    available BIGINT NOT NULL,
    frozen BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
