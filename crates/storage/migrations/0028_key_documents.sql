-- The documents in which other servers published their keys, as they signed them: what a notary passes on.
CREATE TABLE server_key_documents (
    server TEXT NOT NULL,
    -- Until when it is valid (Unix milliseconds), as in server_keys.document_ts: that is how a key finds it.
    document_ts BIGINT NOT NULL,
    -- When it was heard (Unix milliseconds).
    heard_ts BIGINT NOT NULL,
    -- Canonical JSON.
    document TEXT NOT NULL,
    PRIMARY KEY (server, document_ts)
) WITHOUT ROWID;
