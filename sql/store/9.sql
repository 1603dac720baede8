-- Version 9: what asking costs, and limits of a day.

-- Seconds in which the backend was busy, each moment shared evenly by the questions that it had then: the part of the
-- question behind this verdict. NULL for what was stored before.
ALTER TABLE verdicts ADD COLUMN seconds REAL;

-- Whose limits of a day a statement counted against, NULL where there was no server; what it asked; the sum of its
-- questions' seconds as above.
ALTER TABLE queries ADD COLUMN role TEXT;
ALTER TABLE queries ADD COLUMN model TEXT;
ALTER TABLE queries ADD COLUMN busy_seconds REAL;

-- What counts as spent of a role's day, in days since 1970-01-01 UTC. While questions are under way it is more than what
-- was spent: it is counted in blocks ahead, and what was not needed is taken off again. Unlike facts it is updated.
CREATE TABLE limit_days (
    day    INTEGER NOT NULL,
    role   TEXT NOT NULL,
    asked  INTEGER NOT NULL CHECK (asked >= 0),
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (day, role)
) STRICT;
