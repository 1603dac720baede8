-- Version 8: screens. What was certified of each, and when that was withdrawn, is appended and never updated.

-- The weights of a screen: statistics of n-grams, no texts. `bytes` is what `digest` is BLAKE3 of.
CREATE TABLE screen_weights (
    digest  BLOB PRIMARY KEY CHECK (length(digest) = 32),
    bytes   BLOB NOT NULL
) STRICT;

-- One event of a screen: shipped, trained, audited or turned off. Rows of one event share `certificate`; the row without a
-- slice is about all texts. The latest event of a policy's text and a reasoner counts.
CREATE TABLE screens (
    id               INTEGER PRIMARY KEY,
    certificate      INTEGER NOT NULL,
    event            TEXT NOT NULL CHECK (event IN ('shipped', 'trained', 'audited', 'turned_off')),
    at               INTEGER NOT NULL,
    policy           TEXT NOT NULL,
    policy_version   INTEGER NOT NULL,
    policy_digest    TEXT NOT NULL,
    screen_digest    BLOB NOT NULL REFERENCES screen_weights (digest),
    reasoner         TEXT NOT NULL,
    reasoner_digest  TEXT NOT NULL,
    basis            TEXT NOT NULL CHECK (basis IN ('reasoner', 'gold')),
    source           TEXT,
    slice            TEXT,
    state            TEXT NOT NULL CHECK (state IN ('on', 'off')),
    target           REAL NOT NULL,
    delta            REAL NOT NULL,
    clear_below      REAL,
    recall_bound     REAL,
    precision_target REAL,
    convict_above    REAL,
    precision_bound  REAL,
    texts            INTEGER NOT NULL,
    cleared          INTEGER NOT NULL,
    convicted        INTEGER NOT NULL,
    labels           INTEGER NOT NULL,
    violating        INTEGER NOT NULL,
    trained_on       INTEGER NOT NULL,
    more_labels      INTEGER,
    finding          TEXT NOT NULL,
    CHECK (state = 'off' OR clear_below IS NOT NULL OR convict_above IS NOT NULL)
) STRICT;
CREATE INDEX screens_latest ON screens (policy_digest, reasoner_digest, certificate);
CREATE INDEX screens_weights ON screens (screen_digest, certificate);
