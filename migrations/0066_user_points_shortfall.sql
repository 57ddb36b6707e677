-- Points that were spent before they were taken back: balance - shortfall is the sum of the records, and one of them is 0.
ALTER TABLE user_points ADD COLUMN shortfall BIGINT NOT NULL DEFAULT 0;
