-- The history of a user.
CREATE INDEX points_record_user ON points_record (user_id, created_at);
