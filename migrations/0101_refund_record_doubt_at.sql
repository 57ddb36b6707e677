-- Since when nobody knows whether the money went back, epoch ms; while it is set the refund is PENDING, and promised.
ALTER TABLE refund_record ADD COLUMN doubt_at BIGINT;
