-- Version 6: work that outlives a statement: backfills, and texts that wait to be judged.
--
-- Unlike facts, these rows are updated and removed. Whoever works on one says so in claimed_by, which holds until
-- lease_until; past it anybody may take the work. A text is here only until it is judged, and is overwritten then.

CREATE TABLE backfills (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What is resolved: a pinned version, or the text of an inline policy.
    reference      TEXT NOT NULL,
    policy         TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    policy_digest  TEXT NOT NULL,
    model          TEXT NOT NULL,
    model_digest   TEXT NOT NULL,
    mode           TEXT NOT NULL,
    effort         TEXT NOT NULL,
    -- What the requester had set, as a JSON object.
    settings       TEXT NOT NULL,
    source         TEXT NOT NULL,
    -- The query that is spooled: id, text and weight of the source, in order.
    selection      TEXT NOT NULL,
    order_by       TEXT,
    note           TEXT,
    only_which     TEXT,
    from_reference TEXT,
    state          TEXT NOT NULL
        CHECK (state IN ('spooling', 'running', 'paused', 'done', 'cancelled', 'failed')),
    reason         TEXT,
    spooled        INTEGER NOT NULL DEFAULT 0,
    "rows"         INTEGER NOT NULL,
    chunks         INTEGER NOT NULL DEFAULT 0,
    judged         INTEGER NOT NULL DEFAULT 0,
    recalled       INTEGER NOT NULL DEFAULT 0,
    asked          INTEGER NOT NULL DEFAULT 0,
    undecided      INTEGER NOT NULL DEFAULT 0,
    failed         INTEGER NOT NULL DEFAULT 0,
    weight_total   REAL NOT NULL DEFAULT 0,
    weight_judged  REAL NOT NULL DEFAULT 0,
    tokens_in      INTEGER NOT NULL DEFAULT 0,
    tokens_out     INTEGER NOT NULL DEFAULT 0,
    budget         INTEGER,
    rate           REAL,
    control_rows   INTEGER,
    control_flips  INTEGER,
    missed_share   REAL,
    missed_low     REAL,
    missed_high    REAL,
    requested_by   TEXT NOT NULL,
    requested_at   INTEGER NOT NULL,
    started_at     INTEGER,
    ended_at       INTEGER,
    -- Of whoever spools.
    claimed_by     TEXT,
    lease_until    INTEGER NOT NULL DEFAULT 0,
    -- When a chunk was last taken: several backfills take turns.
    claimed_at     INTEGER NOT NULL DEFAULT 0,
    -- How often in a row it failed as a whole, and when it is tried again.
    setbacks       INTEGER NOT NULL DEFAULT 0,
    retry_at       INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The rows that were there when a backfill began. The payload holds those that are still to be judged; prefixes holds the
-- first 8 bytes of each of their texts' digests, so that a text can be found without reading payloads.
CREATE TABLE backfill_chunks (
    backfill    INTEGER NOT NULL REFERENCES backfills (id),
    position    INTEGER NOT NULL,
    control     INTEGER NOT NULL,
    done        INTEGER NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER NOT NULL DEFAULT 0,
    claimed_by  TEXT,
    lease_until INTEGER NOT NULL DEFAULT 0,
    prefixes    BLOB,
    payload     BLOB,
    PRIMARY KEY (backfill, position),
    CHECK ((payload IS NULL) = (done = 1))
) STRICT;
CREATE INDEX backfill_chunks_open ON backfill_chunks (backfill, position) WHERE done = 0;

-- How far a backfill was, and when: what its rate is measured by.
CREATE TABLE backfill_marks (
    backfill INTEGER NOT NULL REFERENCES backfills (id),
    at       INTEGER NOT NULL,
    judged   INTEGER NOT NULL
) STRICT;
CREATE INDEX backfill_marks_at ON backfill_marks (backfill, at);

-- Texts that were given up.
CREATE TABLE backfill_failures (
    backfill    INTEGER NOT NULL REFERENCES backfills (id),
    text_digest BLOB NOT NULL CHECK (length(text_digest) = 32),
    id          TEXT,
    reason      TEXT NOT NULL,
    tries       INTEGER NOT NULL,
    last_error  TEXT,
    at          INTEGER NOT NULL
) STRICT;
CREATE INDEX backfill_failures_text ON backfill_failures (text_digest);

-- Under what the texts of the queue are to be judged.
CREATE TABLE queue_judges (
    id              INTEGER PRIMARY KEY,
    reference       TEXT NOT NULL,
    policy          TEXT NOT NULL,
    policy_version  INTEGER NOT NULL,
    policy_digest   TEXT NOT NULL,
    model           TEXT NOT NULL,
    model_digest    TEXT NOT NULL,
    mode            TEXT NOT NULL,
    effort          TEXT NOT NULL,
    retry_undecided INTEGER NOT NULL,
    depth           INTEGER NOT NULL DEFAULT 0,
    judged          INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0,
    reason          TEXT,
    -- Of the texts judged since rate_from.
    rate            REAL,
    rate_from       INTEGER NOT NULL DEFAULT 0,
    rate_judged     INTEGER NOT NULL DEFAULT 0,
    claimed_at      INTEGER NOT NULL DEFAULT 0,
    setbacks        INTEGER NOT NULL DEFAULT 0,
    retry_at        INTEGER NOT NULL DEFAULT 0,
    UNIQUE (policy, policy_version, policy_digest, model_digest, mode, effort, retry_undecided)
) STRICT;

-- Texts that wait to be judged. A row is gone when its text is judged or given up.
CREATE TABLE queue (
    id          INTEGER PRIMARY KEY,
    judge       INTEGER NOT NULL REFERENCES queue_judges (id),
    text_digest BLOB NOT NULL CHECK (length(text_digest) = 32),
    enqueued_at INTEGER NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER NOT NULL DEFAULT 0,
    claimed_by  TEXT,
    lease_until INTEGER NOT NULL DEFAULT 0,
    text        TEXT NOT NULL,
    UNIQUE (judge, text_digest)
) STRICT;
CREATE INDEX queue_text ON queue (text_digest);
CREATE INDEX queue_order ON queue (judge, id);

CREATE TRIGGER queue_grows AFTER INSERT ON queue
BEGIN
    UPDATE queue_judges SET depth = depth + 1 WHERE id = NEW.judge;
END;
CREATE TRIGGER queue_shrinks AFTER DELETE ON queue
BEGIN
    UPDATE queue_judges SET depth = depth - 1 WHERE id = OLD.judge;
END;
