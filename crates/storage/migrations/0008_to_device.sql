-- Messages from device to device, and EDUs that other servers must get.

CREATE TABLE to_device_inbox (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    -- The event as JSON, as the client gets it.
    event BYTEA NOT NULL,
    PRIMARY KEY (user_id, device_id, position)
) WITHOUT ROWID;
CREATE INDEX to_device_inbox_by_position ON to_device_inbox (position);

-- Messages that were taken, so that a repetition of one is known.
CREATE TABLE to_device_taken (
    -- The server, or the user and the device, that chose the ID.
    source TEXT NOT NULL,
    message_id TEXT NOT NULL,
    taken_ms BIGINT NOT NULL,
    PRIMARY KEY (source, message_id)
) WITHOUT ROWID;
CREATE INDEX to_device_taken_by_age ON to_device_taken (taken_ms);

-- EDUs that must not be lost on the way to a server.
CREATE TABLE edu_outbox (
    server TEXT NOT NULL,
    position BIGINT NOT NULL,
    -- The whole EDU as JSON.
    edu BYTEA NOT NULL,
    PRIMARY KEY (server, position)
) WITHOUT ROWID;
CREATE INDEX edu_outbox_by_position ON edu_outbox (position);
