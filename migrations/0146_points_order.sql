-- Orders whose points have changed. Whoever is to change them writes the order's row first, and so waits for whoever else
-- does: a grant and a refund have no other row in common, and not every database locks rows that are not there yet.
CREATE TABLE points_order (
    order_id BIGINT NOT NULL PRIMARY KEY,
    taken BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
