-- Of which events users are told, and up to where they have read.

CREATE TABLE notifications (
    room BIGINT NOT NULL,
    -- Empty: every local user in the room. A row of a user's own takes the place of that.
    user_id TEXT NOT NULL,
    -- The root of the event's thread, or `main`.
    thread TEXT NOT NULL,
    -- The event's, in the stream of events.
    position BIGINT NOT NULL,
    event BIGINT NOT NULL,
    -- Who wrote the event, if it is one of this server's users: of what everybody is told, it is not.
    author TEXT,
    -- The actions as JSON; NULL: unlike everybody else, the user is not told.
    actions TEXT,
    highlight BOOLEAN NOT NULL,
    PRIMARY KEY (room, user_id, thread, position)
) WITHOUT ROWID;
CREATE INDEX notifications_in_threads ON notifications (room, user_id, position) WHERE thread <> 'main';
CREATE INDEX notifications_by_event ON notifications (event);

CREATE TABLE read_positions (
    user_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    -- The root of a thread, or `main`; empty: the room as a whole.
    thread TEXT NOT NULL,
    -- Everything up to here was read, in the stream of events.
    position BIGINT NOT NULL,
    -- For the room as a whole: the user has been in it since.
    joined BIGINT NOT NULL,
    PRIMARY KEY (user_id, room, thread)
) WITHOUT ROWID;
