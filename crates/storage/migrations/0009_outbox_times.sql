-- When an event was queued for other servers: after a while only the last of each room is kept for
-- those that are still behind.
ALTER TABLE outbox ADD COLUMN made_ts BIGINT NOT NULL DEFAULT 0;
CREATE INDEX outbox_by_room ON outbox (room, position);
