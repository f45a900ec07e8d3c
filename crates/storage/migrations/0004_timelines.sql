-- What clients' read models look things up by.

-- Topological order of a room's history, of what may be shown.
CREATE INDEX events_by_depth ON events (room, depth, position) WHERE position IS NOT NULL AND verdict = 1;

-- Which rooms have news after a position: for a short span of the stream this is faster than asking
-- room by room, however many rooms a user is in.
CREATE INDEX events_by_stream ON events (position, room) WHERE position > 0;
CREATE INDEX room_states_by_stream ON room_states (position, room);
CREATE INDEX local_memberships_by_stream ON local_memberships (user_id, position);
