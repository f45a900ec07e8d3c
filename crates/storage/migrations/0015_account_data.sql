-- What clients keep for their users.

CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    -- Empty: it is about no room.
    room_id TEXT NOT NULL,
    data_type TEXT NOT NULL,
    content BYTEA NOT NULL,
    -- In the stream of messages to devices.
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, data_type)
) WITHOUT ROWID;
CREATE INDEX account_data_by_stream ON account_data (user_id, position);
CREATE INDEX account_data_positions ON account_data (position);
