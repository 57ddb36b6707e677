-- Node numbers of running processes: the middle bits of every id.
CREATE TABLE node_lease (
    node BIGINT NOT NULL PRIMARY KEY,
    owner VARCHAR(64) NOT NULL,
    lease_until BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
