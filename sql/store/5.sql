-- Version 5: what an edit of a policy would change, as it was estimated from a sample, and the sampled rows that changed.

-- One estimate. Shares are of the rows of the source; what was asked again for the noise floor counts apart. A number is
-- NULL where there was nothing to measure it by. Policies are named and numbered for people; digests are what counts.
CREATE TABLE backtests (
    id            INTEGER PRIMARY KEY,
    old_policy    TEXT NOT NULL,
    old_version   INTEGER NOT NULL,
    old_digest    TEXT NOT NULL,
    new_policy    TEXT NOT NULL,
    new_version   INTEGER NOT NULL,
    new_digest    TEXT NOT NULL,
    model         TEXT NOT NULL,
    model_digest  TEXT NOT NULL,
    mode          TEXT NOT NULL,
    effort        TEXT NOT NULL,
    sample        INTEGER NOT NULL,
    seed          INTEGER NOT NULL,
    source_rows   INTEGER NOT NULL,
    sampled       INTEGER NOT NULL,
    flips         INTEGER NOT NULL,
    share         REAL,
    share_low     REAL,
    share_high    REAL,
    noise_sampled INTEGER NOT NULL,
    noise_repeats INTEGER NOT NULL,
    noise_share   REAL,
    noise_low     REAL,
    noise_high    REAL,
    asked         INTEGER NOT NULL,
    tokens        INTEGER,
    hours         REAL,
    seconds       REAL NOT NULL,
    backtested_at INTEGER NOT NULL,
    backtested_by TEXT NOT NULL,
    note          TEXT,
    source        TEXT NOT NULL
) STRICT;
CREATE INDEX backtests_versions ON backtests (old_digest, new_digest);

-- What each line of the answer said, in its order: in total, by direction, rule and stratum, and the noise floor.
CREATE TABLE backtest_findings (
    backtest    INTEGER NOT NULL REFERENCES backtests (id),
    place       INTEGER NOT NULL,
    section     TEXT NOT NULL,
    name        TEXT NOT NULL,
    source_rows INTEGER NOT NULL,
    sampled     INTEGER NOT NULL,
    flips       INTEGER NOT NULL,
    share       REAL,
    share_low   REAL,
    share_high  REAL,
    PRIMARY KEY (backtest, place)
) STRICT;

-- The sampled rows whose decision changed, the first of them by weight. Either a label or a reason on each side. Text and
-- rationales come last: they are long, and erasure by text digest blanks them.
CREATE TABLE backtest_flips (
    id            INTEGER PRIMARY KEY,
    backtest      INTEGER NOT NULL REFERENCES backtests (id),
    row_id        TEXT,
    text_digest   BLOB NOT NULL CHECK (length(text_digest) = 32),
    stratum       TEXT NOT NULL,
    weight        REAL,
    direction     TEXT NOT NULL,
    old_label     TEXT,
    old_reason    TEXT CHECK ((old_reason IS NULL) <> (old_label IS NULL)),
    old_score     REAL,
    old_rules     TEXT,
    new_label     TEXT,
    new_reason    TEXT CHECK ((new_reason IS NULL) <> (new_label IS NULL)),
    new_score     REAL,
    new_rules     TEXT,
    text          TEXT,
    old_rationale TEXT,
    new_rationale TEXT
) STRICT;
CREATE INDEX backtest_flips_backtest ON backtest_flips (backtest);
CREATE INDEX backtest_flips_text ON backtest_flips (text_digest);

-- When a sample was first drawn: the key is a digest over the old version, model, mode, effort, source and seed. What was
-- judged since then does not change the strata of that sample, or the sample itself would.
CREATE TABLE backtest_draws (
    key      BLOB PRIMARY KEY CHECK (length(key) = 32),
    drawn_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
