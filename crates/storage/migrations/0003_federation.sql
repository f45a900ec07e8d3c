-- Public keys of other servers. Kept for ever: an event is checked with the key of its time.
CREATE TABLE server_keys (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public_key BYTEA NOT NULL,
    -- The last moment at which a signature by the key counts (Unix milliseconds).
    valid_until_ts BIGINT NOT NULL,
    -- Until when the document that said so was valid: an older document doesn't replace it.
    document_ts BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

-- What is known about the way to another server.
CREATE TABLE destinations (
    server TEXT NOT NULL PRIMARY KEY,
    -- Since when requests to it fail; NULL: they don't.
    failing_since BIGINT,
    -- Before this moment nothing but interactive requests go there.
    retry_at BIGINT NOT NULL,
    -- How long the present wait is; the next failure doubles it.
    wait_ms BIGINT NOT NULL
);
CREATE INDEX destinations_failing ON destinations (retry_at) WHERE failing_since IS NOT NULL;
