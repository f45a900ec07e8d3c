-- Rooms, their events, their states, and the queues between this server and others.
--
-- Numbers stand for long identifiers (crates/core/src/number.rs); they are given out in process.

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE rooms (
    room BIGINT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- Counts the commits into the room. Who decided on an older count has to decide again.
    revision BIGINT NOT NULL,
    -- The current state; NULL as long as the room has no timeline.
    snapshot BIGINT,
    partial BOOLEAN NOT NULL,
    min_depth BIGINT NOT NULL
);

-- A room's numbering of (type, state key).
CREATE TABLE state_keys (
    room BIGINT NOT NULL,
    key BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    PRIMARY KEY (room, key)
) WITHOUT ROWID;

CREATE TABLE events (
    event BIGINT NOT NULL PRIMARY KEY,
    -- The 32 bytes of the reference hash; in room version 3 the whole ID.
    event_id BYTEA NOT NULL,
    room BIGINT NOT NULL,
    -- 0: only referred to, not held. 1: accepted. 2: soft-failed. 3: rejected.
    verdict BIGINT NOT NULL,
    reason TEXT,
    depth BIGINT NOT NULL,
    -- NULL: an outlier. Backfilled events have negative positions.
    position BIGINT,
    -- The state before the event, and whether it lacks memberships.
    snapshot BIGINT,
    partial BOOLEAN NOT NULL,
    -- The accepted redaction of this event.
    redacted_by BIGINT,
    -- A format byte (1: canonical JSON as it is), then the event without `unsigned`.
    json BYTEA
);
-- Anybody may refer to any ID from any room, so an ID is unique in its room only.
CREATE UNIQUE INDEX events_by_id ON events (event_id, room);
CREATE INDEX events_by_position ON events (room, position) WHERE position IS NOT NULL;
CREATE INDEX events_partial ON events (room, position) WHERE partial;

CREATE TABLE prev_edges (
    prev BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (prev, event)
) WITHOUT ROWID;

-- From an auth event to the state events that cite it: state resolution walks forward.
CREATE TABLE auth_edges (
    auth_event BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (auth_event, event)
) WITHOUT ROWID;

-- The other way: auth chains.
CREATE INDEX auth_edges_by_event ON auth_edges (event);

CREATE TABLE forward_extremities (
    room BIGINT NOT NULL,
    event BIGINT NOT NULL,
    PRIMARY KEY (room, event)
) WITHOUT ROWID;

-- Events that timeline events name as parents, and that are not in the timeline themselves.
-- `depth` is that of the referring event.
CREATE TABLE backward_extremities (
    room BIGINT NOT NULL,
    event BIGINT NOT NULL,
    depth BIGINT NOT NULL,
    PRIMARY KEY (room, event)
) WITHOUT ROWID;

-- Accepted redactions of events that were not held when the redaction came.
CREATE TABLE pending_redactions (
    redacts BYTEA NOT NULL,
    redaction BIGINT NOT NULL,
    PRIMARY KEY (redacts, redaction)
) WITHOUT ROWID;

CREATE TABLE snapshots (
    snapshot BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    -- Whether it was stored for a partial state. No snapshot of a full state depends on such a one.
    partial BOOLEAN NOT NULL,
    -- The snapshot that `delta` starts from; NULL: this one is in chunks.
    base BIGINT,
    -- How many deltas and skips lie between this one and the last in chunks.
    depth BIGINT NOT NULL,
    delta BYTEA
);
CREATE UNIQUE INDEX snapshots_by_hash ON snapshots (room, hash, partial);

CREATE TABLE snapshot_chunks (
    snapshot BIGINT NOT NULL,
    members BOOLEAN NOT NULL,
    first_key BIGINT NOT NULL,
    entries BYTEA NOT NULL,
    PRIMARY KEY (snapshot, members, first_key)
);

-- The current state of a room from a position on.
CREATE TABLE room_states (
    room BIGINT NOT NULL,
    position BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    partial BOOLEAN NOT NULL,
    PRIMARY KEY (room, position)
) WITHOUT ROWID;

-- What this server's own users are to rooms, by the current state or, for rooms it is not in, by an
-- out-of-band membership.
CREATE TABLE local_memberships (
    user_id TEXT NOT NULL,
    room BIGINT NOT NULL,
    membership TEXT NOT NULL,
    event BIGINT NOT NULL,
    position BIGINT NOT NULL,
    forgotten BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, room)
);
CREATE INDEX local_memberships_by_room ON local_memberships (room);

CREATE TABLE room_aliases (
    alias TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL
);

-- PDUs that were acknowledged and not judged yet.
CREATE TABLE staged_pdus (
    staged BIGINT NOT NULL PRIMARY KEY,
    room BIGINT NOT NULL,
    origin TEXT NOT NULL,
    event_id BYTEA NOT NULL,
    json BYTEA NOT NULL
);
CREATE INDEX staged_pdus_by_room ON staged_pdus (room, staged);

-- Answers given to transactions of other servers.
CREATE TABLE received_transactions (
    origin TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    response BYTEA NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (origin, txn_id)
);

-- Our events that other servers must get: one row an event. Its receivers are the servers in
-- `snapshot` and those in `further` (names separated by spaces).
CREATE TABLE outbox (
    position BIGINT NOT NULL PRIMARY KEY,
    event BIGINT NOT NULL,
    room BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    further TEXT NOT NULL
);

-- Joins that were begun: written before `send_join`, so that a crash can be repaired.
CREATE TABLE join_records (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- The candidate servers, separated by spaces.
    candidates TEXT NOT NULL,
    content BYTEA NOT NULL,
    started_ts BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id)
);

-- Rooms whose state is partial, and how far their resync is.
CREATE TABLE partial_rooms (
    room BIGINT NOT NULL PRIMARY KEY,
    join_event BIGINT NOT NULL,
    served_by TEXT NOT NULL,
    -- Servers in the room at the join, separated by spaces.
    servers TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_try_ts BIGINT NOT NULL,
    last_error TEXT
);

-- Events that could not be pulled (R59).
CREATE TABLE pull_failures (
    event_id BYTEA NOT NULL PRIMARY KEY,
    attempts BIGINT NOT NULL,
    last_ts BIGINT NOT NULL,
    error TEXT NOT NULL
);

-- Which event a client's transaction made, so that a repeated request makes no second one.
CREATE TABLE client_transactions (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    path TEXT NOT NULL,
    event_id TEXT NOT NULL,
    created_ts BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, path)
);
CREATE INDEX client_transactions_by_event ON client_transactions (event_id);
CREATE INDEX client_transactions_by_age ON client_transactions (created_ts);
CREATE INDEX received_transactions_by_age ON received_transactions (received_ts);
CREATE INDEX events_backfilled ON events (position) WHERE position < 0;

-- How far the outbox was delivered to servers that are behind. Others have everything up to the
-- setting `outbox_delivered`.
CREATE TABLE delivery_cursors (
    server TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);
