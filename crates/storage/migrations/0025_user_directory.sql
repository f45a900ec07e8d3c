-- Users who are found by their names: those who are, or were, in rooms that this server is in. What the rooms say of
-- them now is looked up when they are found.

CREATE TABLE directory_users (
    number BIGINT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE,
    -- What they called themselves in the room that was looked at last.
    display_name TEXT NOT NULL
);

-- The words of their names, by number.
CREATE TEXT INDEX directory_words;

-- The rooms whose members were looked at, by which state.
CREATE TABLE directory_rooms (
    room BIGINT NOT NULL PRIMARY KEY,
    snapshot BIGINT NOT NULL,
    -- Whether anybody may join or look into it, and so see who is there.
    public BOOLEAN NOT NULL
);
