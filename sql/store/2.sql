-- Version 2: how sure a label was, and from which gap on the scores of a policy and a model are trusted.

-- Log-odds of the label against the next best one. Behind the rationale, because a column can only be added at the end;
-- who reads it of a reasoned verdict reads the rationale's pages too. NULL for what was judged before.
ALTER TABLE verdicts ADD COLUMN gap REAL;

-- Appended, never updated: the latest for a scorer counts. The scorer is all that a score depends on beside the text. No
-- gap means that no gap was good enough; then rows_above, right_above and bound are those of the best candidate.
CREATE TABLE calibrations (
    id             INTEGER PRIMARY KEY,
    scorer_digest  BLOB NOT NULL CHECK (length(scorer_digest) = 32),
    policy         TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    policy_digest  TEXT NOT NULL,
    model          TEXT NOT NULL,
    model_digest   TEXT NOT NULL,
    golden         TEXT NOT NULL,
    golden_digest  BLOB NOT NULL CHECK (length(golden_digest) = 32),
    target         REAL NOT NULL,
    gap            REAL,
    golden_rows    INTEGER NOT NULL,
    scored         INTEGER NOT NULL,
    scored_right   INTEGER NOT NULL,
    rows_above     INTEGER NOT NULL,
    right_above    INTEGER NOT NULL,
    bound          REAL NOT NULL,
    calibrated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX calibrations_scorer ON calibrations (scorer_digest);
