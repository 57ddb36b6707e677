-- Secrets before old_secret that still sign, as JSON: a list of [secret, until (epoch ms)], the newest first.
ALTER TABLE merchant ADD COLUMN older_secrets VARCHAR(2000) NOT NULL DEFAULT '';
