-- Version 7: what SQL made and a start makes again, jobs and their runs. Unlike facts, these rows are replaced and
-- removed: they say what there is now.

-- External tables, views and schemas, in the order in which they were first made. `sql` is as typed, `made_by` the
-- statement that makes it again anywhere: with absolute locations, and to be read with this default schema.
CREATE TABLE relations (
    position       INTEGER PRIMARY KEY,
    kind           TEXT NOT NULL CHECK (kind IN ('schema', 'table', 'view')),
    "schema"       TEXT NOT NULL,
    name           TEXT NOT NULL CHECK ((name = '') = (kind = 'schema')),
    sql            TEXT NOT NULL,
    made_by        TEXT NOT NULL,
    default_schema TEXT NOT NULL,
    created_by     TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    UNIQUE ("schema", name)
) STRICT;

-- Times of a job count from `since` on: it was scheduled, changed or switched on then. Numbers are never given again.
CREATE TABLE cron_jobs (
    jobid    INTEGER PRIMARY KEY AUTOINCREMENT,
    jobname  TEXT UNIQUE,
    schedule TEXT NOT NULL,
    command  TEXT NOT NULL,
    database TEXT NOT NULL,
    username TEXT NOT NULL,
    active   INTEGER NOT NULL CHECK (active IN (0, 1)),
    since    INTEGER NOT NULL
) STRICT;

-- A due time of a job is claimed by inserting its row: whoever comes second inserts nothing. The owner is the process
-- that claimed it; a process that is gone runs nothing any more.
CREATE TABLE cron_runs (
    runid          INTEGER PRIMARY KEY AUTOINCREMENT,
    jobid          INTEGER NOT NULL,
    due            INTEGER NOT NULL,
    owner          TEXT NOT NULL,
    job_pid        INTEGER,
    database       TEXT NOT NULL,
    username       TEXT NOT NULL,
    command        TEXT NOT NULL,
    status         TEXT NOT NULL CHECK (status IN ('starting', 'running', 'succeeded', 'failed', 'missed')),
    return_message TEXT,
    start_time     INTEGER,
    end_time       INTEGER,
    "rows"         INTEGER,
    asked          INTEGER,
    undecided      INTEGER,
    notices        TEXT,
    UNIQUE (jobid, due)
) STRICT;
CREATE INDEX cron_runs_open ON cron_runs (jobid, status, due) WHERE status IN ('starting', 'running');
CREATE INDEX cron_runs_ended ON cron_runs (end_time);

-- Up to when some process has looked for due times, in microseconds; what was due after it was missed.
CREATE TABLE cron_state (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    seen INTEGER NOT NULL
) STRICT;
