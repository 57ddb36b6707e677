-- Pieces of each SKU by where they are.
CREATE TABLE stock (
    sku VARCHAR(64) NOT NULL PRIMARY KEY,
    available BIGINT NOT NULL,
    frozen BIGINT NOT NULL,
    sold BIGINT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
