-- Users for whom other limits hold than for everybody.

CREATE TABLE rate_limit_overrides (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- How many messages they may send a second, and how many at once; both 0: nothing limits them.
    messages_per_second BIGINT NOT NULL,
    burst_count BIGINT NOT NULL
) WITHOUT ROWID;
