-- Who sells, where a merchant is told what became of its payments, and which secrets sign that (the old one beside the new
-- one until old_until). accepts is a JSON list of the payments that it may open at the gateway.
CREATE TABLE merchant (
    id BIGINT NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    tenant_id VARCHAR(64) NOT NULL,
    notify_url VARCHAR(500) NOT NULL,
    active SMALLINT NOT NULL,
    accepts TEXT NOT NULL,
    secret VARCHAR(128) NOT NULL,
    old_secret VARCHAR(128),
    old_until BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
