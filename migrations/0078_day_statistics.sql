-- Payments by day (in the time zone of statistics.time_zone). SUBMIT counts into submit_count, SUCCESS into the others.
CREATE TABLE day_statistics (
    stat_date VARCHAR(10) NOT NULL,
    product_id VARCHAR(64) NOT NULL,
    channel_id VARCHAR(64) NOT NULL,
    tenant_id VARCHAR(64) NOT NULL,
    statistics_type VARCHAR(16) NOT NULL,
    submit_count BIGINT NOT NULL,
    success_count BIGINT NOT NULL,
    success_money BIGINT NOT NULL,
    extra_arg VARCHAR(200) NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (stat_date, product_id, channel_id, tenant_id, statistics_type)
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
