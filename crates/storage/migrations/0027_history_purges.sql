-- Parts of rooms' histories that administrators delete. What is begun goes on after a crash.

CREATE TABLE history_purges (
    purge TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    -- What is less deep goes.
    depth BIGINT NOT NULL,
    -- Whether what this server's users wrote goes, too.
    local_too BOOLEAN NOT NULL,
    -- active, complete or failed.
    status TEXT NOT NULL,
    -- Why it failed.
    error TEXT,
    begun_ms BIGINT NOT NULL,
    finished_ms BIGINT
) WITHOUT ROWID;
CREATE INDEX history_purges_active ON history_purges (begun_ms) WHERE status = 'active';
CREATE INDEX history_purges_finished ON history_purges (finished_ms) WHERE finished_ms IS NOT NULL;

-- What stands in a timeline without being shown, by depth.
CREATE INDEX events_not_shown ON events (room, depth, position) WHERE position IS NOT NULL AND verdict <> 1;
