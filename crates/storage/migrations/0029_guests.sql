-- Guests (client-server API, "Guest access"): accounts that anybody gets, and that may do little.

ALTER TABLE accounts ADD COLUMN guest BOOLEAN NOT NULL DEFAULT FALSE;
