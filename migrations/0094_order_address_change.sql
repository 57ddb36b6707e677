-- Addresses of orders that were changed before the warehouse had them: who, from what, to what.
CREATE TABLE order_address_change (
    id BIGINT NOT NULL PRIMARY KEY,
    order_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    address_before VARCHAR(500) NOT NULL,
    address_after VARCHAR(500) NOT NULL,
    changed_by VARCHAR(100) NOT NULL,
    created_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
