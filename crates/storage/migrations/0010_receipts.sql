-- Up to where users have read.

CREATE TABLE receipts (
    room BIGINT NOT NULL,
    -- m.read, m.read.private or m.fully_read.
    receipt_type TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- The root of a thread, or `main`; empty: the room as a whole.
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- Where the event is in the stream of events; NULL: it was not held when the receipt came.
    event_position BIGINT,
    read_ms BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room, receipt_type, user_id, thread)
) WITHOUT ROWID;
CREATE INDEX receipts_by_stream ON receipts (position, room);
CREATE INDEX receipts_by_room ON receipts (room, position);
