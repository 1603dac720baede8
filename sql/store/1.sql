-- The store, version 1. Facts are appended and never updated; the one exception is erasure by text digest, which blanks
-- what can quote a text. Digests are 32 raw bytes, times are microseconds since 1970-01-01 UTC, booleans are 0 or 1.

-- What judged: a policy's version, a stage, settings and a model. Few rows, shared by many verdicts.
CREATE TABLE judges (
    id             INTEGER PRIMARY KEY,
    policy         TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    policy_digest  TEXT NOT NULL,
    stage          TEXT NOT NULL,
    mode           TEXT NOT NULL,
    effort         TEXT NOT NULL,
    model          TEXT NOT NULL,
    model_digest   TEXT NOT NULL,
    UNIQUE (policy, policy_version, policy_digest, stage, mode, effort, model, model_digest)
) STRICT;

-- Attempt 0 is what was found first under a key. Attempt 1 exists only where attempt 0 was undecided and was asked again
-- with success. The rationale comes last, so that reading the other columns skips its overflow pages.
CREATE TABLE verdicts (
    id             INTEGER PRIMARY KEY,
    verdict_digest BLOB NOT NULL CHECK (length(verdict_digest) = 32),
    attempt        INTEGER NOT NULL CHECK (attempt IN (0, 1)),
    judge          INTEGER NOT NULL REFERENCES judges (id),
    text_digest    BLOB NOT NULL CHECK (length(text_digest) = 32),
    label          TEXT,
    violates       INTEGER CHECK ((violates IS NULL) = (label IS NULL)),
    score          REAL,
    reason         TEXT CHECK ((reason IS NULL) <> (label IS NULL)),
    tokens_in      INTEGER NOT NULL,
    tokens_out     INTEGER NOT NULL,
    judged_at      INTEGER NOT NULL,
    rules          TEXT,
    rationale      TEXT
) STRICT;
CREATE UNIQUE INDEX verdicts_key ON verdicts (verdict_digest, attempt);
CREATE INDEX verdicts_text ON verdicts (text_digest);

CREATE TABLE policy_versions (
    name         TEXT NOT NULL,
    version      INTEGER NOT NULL,
    digest       TEXT NOT NULL,
    text         TEXT NOT NULL,
    labels       TEXT NOT NULL,
    title        TEXT,
    published_at INTEGER NOT NULL,
    published_by TEXT,
    note         TEXT,
    PRIMARY KEY (name, version)
) STRICT;

-- The current version of each policy: its highest.
CREATE VIEW policies AS
SELECT name, version, digest, title, labels, published_at, note
FROM policy_versions AS p
WHERE version = (SELECT max(q.version) FROM policy_versions AS q WHERE q.name = p.name);

CREATE TABLE overrides (
    id          INTEGER PRIMARY KEY,
    policy      TEXT NOT NULL,
    text_digest BLOB NOT NULL CHECK (length(text_digest) = 32),
    text        TEXT,
    label       TEXT NOT NULL,
    reviewer    TEXT,
    note        TEXT,
    decided_at  INTEGER NOT NULL,
    violates    INTEGER NOT NULL
) STRICT;
CREATE INDEX overrides_text ON overrides (text_digest);

CREATE TABLE queries (
    id             INTEGER PRIMARY KEY,
    started_at     INTEGER NOT NULL,
    "user"         TEXT NOT NULL,
    statement      TEXT NOT NULL,
    status         TEXT NOT NULL,
    "rows"         INTEGER NOT NULL,
    distinct_texts INTEGER NOT NULL,
    recalled       INTEGER NOT NULL,
    screened       INTEGER NOT NULL,
    asked          INTEGER NOT NULL,
    undecided      INTEGER NOT NULL,
    tokens_in      INTEGER NOT NULL,
    tokens_out     INTEGER NOT NULL,
    seconds        REAL NOT NULL
) STRICT;
