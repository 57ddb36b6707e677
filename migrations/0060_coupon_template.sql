-- Coupons that may be issued. kind 1: an amount off, 2: a percentage (basis points, at most max_off), 3: an amount off
-- from min_amount on. Amounts in minor units; issued is the number of rows in coupon.
CREATE TABLE coupon_template (
    template VARCHAR(64) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    kind SMALLINT NOT NULL,
    amount_off BIGINT NOT NULL,
    basis_points BIGINT NOT NULL,
    max_off BIGINT,
    min_amount BIGINT NOT NULL,
    stock BIGINT NOT NULL,
    issued BIGINT NOT NULL,
    per_user BIGINT NOT NULL,
    valid_from BIGINT NOT NULL,
    valid_until BIGINT NOT NULL,
    active SMALLINT NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
