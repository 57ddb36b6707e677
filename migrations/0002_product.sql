-- What is sold, at which price. Amounts in minor units.
CREATE TABLE product (
    sku VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    price BIGINT NOT NULL,
    currency VARCHAR(3) NOT NULL,
    active SMALLINT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
