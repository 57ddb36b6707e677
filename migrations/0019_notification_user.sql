-- The messages of a user, newest first.
CREATE INDEX notification_user ON notification (user_id, id);
