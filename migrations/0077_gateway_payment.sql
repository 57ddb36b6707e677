-- What a payment of the gateway (payment_record.kind 2) has beside a payment of the shop: a merchant's own order.
CREATE TABLE gateway_payment (
    payment_id BIGINT NOT NULL PRIMARY KEY,
    merchant_id BIGINT NOT NULL,
    out_order_no VARCHAR(64) NOT NULL,
    product_id VARCHAR(64) NOT NULL,
    tenant_id VARCHAR(64) NOT NULL,
    notify_url VARCHAR(500) NOT NULL,
    extra_arg VARCHAR(200) NOT NULL,
    UNIQUE (merchant_id, out_order_no)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
