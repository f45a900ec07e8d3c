-- Memberships of this server's own users in rooms that it is not in: invites, knocks, and what became
-- of them. Such an event is known by itself and not as a part of the room, so it is not among the
-- room's events, though it has a number like them.
CREATE TABLE out_of_band_memberships (
    room BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    event BIGINT NOT NULL,
    event_id BYTEA NOT NULL,
    -- The event as it travels.
    json BYTEA NOT NULL,
    -- What the user may know of the room: a JSON list of stripped state events.
    stripped_state BYTEA NOT NULL,
    -- The server through which the room can be reached.
    via TEXT NOT NULL,
    PRIMARY KEY (room, user_id)
) WITHOUT ROWID;
