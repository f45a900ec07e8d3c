-- Rooms that guests of this server have to leave, and have not left yet.
CREATE TABLE guest_departures (
    room BIGINT NOT NULL PRIMARY KEY,
    -- Who came in before it, or at it, has to leave.
    position BIGINT NOT NULL
) WITHOUT ROWID;
