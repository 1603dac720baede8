-- Version 10: secrets that name where the secret is, kept with the relations that need them.

CREATE TABLE relations_wider (
    position       INTEGER PRIMARY KEY,
    kind           TEXT NOT NULL CHECK (kind IN ('schema', 'table', 'view', 'secret')),
    "schema"       TEXT NOT NULL,
    name           TEXT NOT NULL CHECK ((name = '') = (kind = 'schema')),
    sql            TEXT NOT NULL,
    made_by        TEXT NOT NULL,
    default_schema TEXT NOT NULL,
    created_by     TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    UNIQUE ("schema", name)
) STRICT;
INSERT INTO relations_wider SELECT * FROM relations;
DROP TABLE relations;
ALTER TABLE relations_wider RENAME TO relations;
