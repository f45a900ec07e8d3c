-- From where a device was last used.

ALTER TABLE devices ADD COLUMN last_seen_ip TEXT;
