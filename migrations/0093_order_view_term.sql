-- What orders are found by: their SKUs, and how their remarks begin, in small letters. Rows never change.
CREATE TABLE order_view_term (
    term VARCHAR(80) NOT NULL,
    order_id BIGINT NOT NULL,
    PRIMARY KEY (term, order_id)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
