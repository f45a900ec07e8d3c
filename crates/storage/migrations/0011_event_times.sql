-- When events say that they were made, for `/timestamp_to_event`. There is no release whose events
-- would have to get one: rows from before this step have none, and aren't found by time.

ALTER TABLE events ADD COLUMN origin_server_ts BIGINT;

CREATE INDEX events_by_time ON events (room, origin_server_ts, position)
    WHERE position IS NOT NULL AND verdict = 1 AND origin_server_ts IS NOT NULL;
