-- Every change of a balance: at most one of each kind per order.
CREATE TABLE points_record (
    order_id BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    user_id BIGINT NOT NULL,
    points BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (order_id, kind)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
