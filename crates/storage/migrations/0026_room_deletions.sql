-- Rooms that administrators delete. What is begun goes on after a crash.

CREATE TABLE room_deletions (
    deletion TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    -- active, complete or failed.
    status TEXT NOT NULL,
    -- What the administrator wants, and what was done of it so far: JSON.
    wish BYTEA NOT NULL,
    outcome BYTEA NOT NULL,
    -- Why it failed.
    error TEXT,
    -- The number that the room had, as long as rows with it may be left.
    remains BIGINT,
    begun_ms BIGINT NOT NULL,
    finished_ms BIGINT
) WITHOUT ROWID;
CREATE INDEX room_deletions_by_room ON room_deletions (room_id, begun_ms);
-- A room is deleted once at a time.
CREATE UNIQUE INDEX room_deletions_active ON room_deletions (room_id) WHERE status = 'active';
CREATE INDEX room_deletions_finished ON room_deletions (finished_ms) WHERE finished_ms IS NOT NULL;

-- What a room has in tables that are ordered by something else.
CREATE INDEX events_without_place ON events (room) WHERE position IS NULL;
CREATE INDEX pending_redactions_by_redaction ON pending_redactions (redaction);
CREATE INDEX read_positions_by_room ON read_positions (room);
CREATE INDEX account_data_by_room ON account_data (room_id) WHERE room_id <> '';
CREATE INDEX reports_by_room ON reports (room_id) WHERE room_id IS NOT NULL;
