-- What users of this server say about themselves beside their presence, which is kept in memory.

CREATE TABLE presence_statuses (
    user_id TEXT NOT NULL PRIMARY KEY,
    status_msg TEXT NOT NULL
);

-- The rooms in which a user is, or was, of this server or of another.
CREATE INDEX state_keys_of_members ON state_keys (state_key, room) WHERE event_type = 'm.room.member';
