-- Version 4: what evaluations found. Appended, never updated, but for the erasure of texts.

-- One policy measured once. Policy '*' is a measurement of several together: the texts that are golden under all of them,
-- and right under all. Its version is 0 and its digest empty, and it has no rows below.
CREATE TABLE evaluations (
    id             INTEGER PRIMARY KEY,
    evaluated_at   INTEGER NOT NULL,
    evaluated_by   TEXT NOT NULL,
    policy         TEXT NOT NULL,
    version        INTEGER NOT NULL,
    digest         TEXT NOT NULL,
    against        TEXT,
    golden         TEXT NOT NULL,
    golden_digest  BLOB NOT NULL CHECK (length(golden_digest) = 32),
    model          TEXT NOT NULL,
    model_digest   TEXT NOT NULL,
    mode           TEXT NOT NULL,
    effort         TEXT NOT NULL,
    repeats        INTEGER NOT NULL,
    note           TEXT NOT NULL,
    n              INTEGER NOT NULL,
    predicted      INTEGER NOT NULL,
    "right"        INTEGER NOT NULL,
    undecided      INTEGER NOT NULL,
    accuracy       REAL,
    accuracy_low   REAL,
    accuracy_high  REAL,
    unstable       INTEGER,
    flips          INTEGER,
    fixed          INTEGER,
    broken         INTEGER
) STRICT;
CREATE INDEX evaluations_policy ON evaluations (policy, version);

-- Each golden text with what was said of it, under the policy and under the one that it was held against. Source is
-- golden, or override where a person's label stands in. Unstable is NULL where nothing was asked again.
CREATE TABLE evaluation_rows (
    id              INTEGER PRIMARY KEY,
    evaluation      INTEGER NOT NULL REFERENCES evaluations (id),
    policy          TEXT NOT NULL,
    version         INTEGER NOT NULL,
    text_digest     BLOB NOT NULL CHECK (length(text_digest) = 32),
    source          TEXT NOT NULL,
    golden_label    TEXT NOT NULL,
    golden_violates INTEGER NOT NULL,
    label           TEXT,
    reason          TEXT CHECK ((reason IS NULL) <> (label IS NULL)),
    violates        INTEGER CHECK ((violates IS NULL) = (label IS NULL)),
    score           REAL,
    unstable        INTEGER,
    rules           TEXT,
    text            TEXT
) STRICT;
CREATE INDEX evaluation_rows_evaluation ON evaluation_rows (evaluation);
CREATE INDEX evaluation_rows_text ON evaluation_rows (text_digest);
