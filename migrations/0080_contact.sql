-- Where a user is reached, and when and about what: the only place of phone numbers and e-mail addresses. *_off are the
-- topics of which the user wants nothing, between commas; quiet hours are minutes of the day in time_zone.
CREATE TABLE contact (
    user_id BIGINT NOT NULL PRIMARY KEY,
    phone VARCHAR(16),
    email VARCHAR(254),
    language VARCHAR(2),
    sms_off VARCHAR(64) NOT NULL,
    email_off VARCHAR(64) NOT NULL,
    quiet_from SMALLINT,
    quiet_to SMALLINT,
    time_zone VARCHAR(64),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
) /*! ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;
