-- Times that it was claimed to be made, and nothing says whether the other side did it: what may have been done. None: no
-- program that counts has claimed it, so each of its attempts may be one.
ALTER TABLE delivery ADD COLUMN unanswered BIGINT;
