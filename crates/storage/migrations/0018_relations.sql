-- Which events of a timeline relate to which (client-server API, "Forming relationships between events").
-- An event that was redacted relates to nothing any more.

CREATE TABLE relations (
    event BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    -- The ID of the event that it relates to, held or not, as in `events`.
    parent BYTEA NOT NULL,
    rel_type TEXT NOT NULL,
    event_type TEXT NOT NULL,
    sender TEXT NOT NULL,
    -- With what the parent is annotated.
    annotation TEXT,
    -- As in `events`: pages and the last event of a thread are found by them.
    depth BIGINT NOT NULL,
    position BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL
);
CREATE INDEX relations_by_parent ON relations (parent, room, rel_type, depth, position);
CREATE INDEX relations_by_sender ON relations (parent, room, sender);
-- A room's threads, by what was said last.
CREATE INDEX relations_of_threads ON relations (room, depth, position) WHERE rel_type = 'm.thread';
