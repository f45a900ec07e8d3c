-- What users show of themselves beside their name and picture, field by field.

CREATE TABLE profile_fields (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    -- Any JSON value.
    value BYTEA NOT NULL,
    PRIMARY KEY (user_id, field)
) WITHOUT ROWID;
