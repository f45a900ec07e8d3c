-- When a device was last used, and accounts that are closed.

ALTER TABLE devices ADD COLUMN last_seen_ms BIGINT;
-- What the device calls its program.
ALTER TABLE devices ADD COLUMN user_agent TEXT;

-- Users whose accounts were closed and who are not out of all their rooms yet.
CREATE TABLE departures (
    user_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;
