-- Rooms that no user of this server shall come into, and which administrator wants that.

CREATE TABLE blocked_rooms (
    room_id TEXT NOT NULL PRIMARY KEY,
    blocked_by TEXT NOT NULL
) WITHOUT ROWID;
