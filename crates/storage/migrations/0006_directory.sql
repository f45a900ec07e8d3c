-- The public room directory, and aliases by room.

CREATE TABLE published_rooms (
    room BIGINT NOT NULL PRIMARY KEY
);

CREATE INDEX room_aliases_by_room ON room_aliases (room_id);
