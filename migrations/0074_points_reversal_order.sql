-- The refunds of one order.
CREATE INDEX points_reversal_order ON points_reversal (order_id);
