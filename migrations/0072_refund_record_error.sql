-- Why the money did not go back.
ALTER TABLE refund_record ADD COLUMN error VARCHAR(500);
