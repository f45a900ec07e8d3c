-- This server's own users: accounts, devices, tokens, filters and the public keys of devices.

CREATE TABLE accounts (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- A PHC string (argon2id); NULL: nobody can log in with a password.
    password_hash TEXT,
    admin BOOLEAN NOT NULL,
    deactivated BOOLEAN NOT NULL,
    created_ms BIGINT NOT NULL,
    -- Counts the changes of the user's devices, so that other servers see whether they missed one.
    device_list BIGINT NOT NULL,
    display_name TEXT,
    avatar_url TEXT
) WITHOUT ROWID;

CREATE TABLE devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ms BIGINT NOT NULL,
    -- The signed public keys of the device as JSON; NULL: it does not encrypt.
    keys BYTEA,
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;

-- Tokens are known by the SHA-256 of them only, so that a copy of the database lets nobody in.
CREATE TABLE access_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_ms BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);

-- Tokens that let somebody register.
CREATE TABLE registration_tokens (
    token TEXT NOT NULL PRIMARY KEY,
    -- How many more accounts it is good for; NULL: any number.
    uses_left BIGINT,
    -- The account becomes an administrator's.
    admin BOOLEAN NOT NULL,
    created_ms BIGINT NOT NULL
) WITHOUT ROWID;

CREATE TABLE filters (
    user_id TEXT NOT NULL,
    filter BIGINT NOT NULL,
    -- JSON as the client sent it.
    content BYTEA NOT NULL,
    PRIMARY KEY (user_id, filter)
) WITHOUT ROWID;

-- Keys that are given out once each. They go in the order of `number`.
CREATE TABLE one_time_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    number BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    content BYTEA NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_time_keys_by_id ON one_time_keys (user_id, device_id, algorithm, key_id);

-- Keys that are given out when no other is left, and stay.
CREATE TABLE fallback_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    content BYTEA NOT NULL,
    used BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
) WITHOUT ROWID;
