-- What the payment role knows of merchants: the last MERCHANT_CHANGED of each.
CREATE TABLE merchant_account (
    merchant_id BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    active SMALLINT NOT NULL,
    tenant_id VARCHAR(64) NOT NULL,
    notify_url VARCHAR(500) NOT NULL,
    accepts TEXT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
