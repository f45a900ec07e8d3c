-- Which timeline events are found by which words. A worker fills it from the stream of events.

-- By position, so that the newest are found first.
CREATE TEXT INDEX search_words;

-- The events behind the positions.
CREATE TABLE search_events (
    position BIGINT NOT NULL PRIMARY KEY,
    event BIGINT NOT NULL
);

-- Events from the past that were not looked at yet. Their positions go down, and are not committed in order.
CREATE TABLE search_backlog (
    position BIGINT NOT NULL PRIMARY KEY
);
INSERT INTO search_backlog (position) SELECT position FROM events WHERE position < 0;
