-- Sessions that are renewed, tokens that prove a user to third parties, and what users report.

ALTER TABLE access_tokens ADD COLUMN expires_ms BIGINT;
-- The hash of the refresh token in whose place this one came; NULL once it was used.
ALTER TABLE access_tokens ADD COLUMN renews BYTEA;

-- Known by their SHA-256 only, like access tokens.
CREATE TABLE refresh_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- As for access tokens.
    renews BYTEA,
    created_ms BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (user_id, device_id);

CREATE TABLE openid_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX openid_tokens_by_time ON openid_tokens (expires_ms);

-- What users want the server's administrators to look at: a room, an event of it, or a user.
CREATE TABLE reports (
    report TEXT NOT NULL PRIMARY KEY,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT,
    created_ms BIGINT NOT NULL
) WITHOUT ROWID;
