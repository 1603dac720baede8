-- Version 3: users of the server.

-- The one table whose rows are replaced and removed: it says who may log in now. The verifier is PostgreSQL's text form of
-- a SCRAM-SHA-256 secret, never a password; no table of SQL shows it.
CREATE TABLE users (
    name        TEXT PRIMARY KEY,
    role        TEXT NOT NULL CHECK (role IN ('reader', 'analyst', 'admin')),
    verifier    TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    valid_until INTEGER
) STRICT;

-- What is particular to this store. Salts for names that no user has are worked out from the secret, so that they stay the
-- same from one start of the server to the next, as those of users do.
CREATE TABLE particulars (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    mock_secret BLOB NOT NULL CHECK (length(mock_secret) = 32)
) STRICT;
INSERT INTO particulars (id, mock_secret) VALUES (1, randomblob(32));
