-- One row per coupon that a user holds, with the terms it was issued with. state 0: free, 1: locked, 2: used; order_id is
-- the order that it is locked or used by, so an order has one coupon at most, and a coupon one order.
CREATE TABLE coupon (
    id BIGINT NOT NULL PRIMARY KEY,
    template VARCHAR(64) NOT NULL,
    user_id BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    order_id BIGINT,
    kind SMALLINT NOT NULL,
    amount_off BIGINT NOT NULL,
    basis_points BIGINT NOT NULL,
    max_off BIGINT,
    min_amount BIGINT NOT NULL,
    valid_from BIGINT NOT NULL,
    valid_until BIGINT NOT NULL,
    issue_key VARCHAR(255),
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (order_id),
    UNIQUE (issue_key)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
