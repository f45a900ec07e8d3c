-- What administrators are shown of accounts and of tokens for registering.

-- What belonged to the user and to no room went with the account.
ALTER TABLE accounts ADD COLUMN erased BOOLEAN NOT NULL DEFAULT FALSE;

-- How many accounts were made with the token.
ALTER TABLE registration_tokens ADD COLUMN completed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE registration_tokens ADD COLUMN expires_ms BIGINT;
