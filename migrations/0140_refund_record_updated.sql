-- The refunds of a day, which a channel's statement of that day has to have.
CREATE INDEX refund_record_updated ON refund_record (updated_at, id);
