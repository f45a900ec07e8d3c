-- Why a staged PDU can't be judged: it is set aside, and the others of its room go on.
ALTER TABLE staged_pdus ADD COLUMN failure TEXT;
