-- Users whose rooms do not know all of their profile yet.

CREATE TABLE profile_changes (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- Grows with each change, so that one that comes while the rooms are told is not taken for told.
    change BIGINT NOT NULL
);
