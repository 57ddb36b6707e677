-- Where a record comes from that no order of the shop made (kinds 4 and 5 of points_record, whose order_id is record_id):
-- the event of a grant from outside, or the key of a wish to spend.
CREATE TABLE points_source (
    record_id BIGINT NOT NULL PRIMARY KEY,
    source VARCHAR(200) NOT NULL,
    order_id BIGINT,
    reason VARCHAR(200) NOT NULL,
    UNIQUE (source)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
