-- What judging has cost, by day (UTC), policy and stage: what is stored, each verdict once, on the day it was judged.
--
-- rows are verdicts, undecided ones included. seconds are the backend's busy time: every moment in which it had questions
-- is shared evenly by those that it had then, and a verdict has the part of its question; so they sum up to the time in
-- which the backend worked, however many questions ran at once; those of stage screen are the time that scoring took,
-- spread evenly over its texts. They are NULL where none is known: verdicts that were
-- stored before this was measured have none. share is this line's part of the day's seconds. reasoning_share is, of
-- the seconds of the same day and policy, the part that stage reason took. Questions whose answers are not stored
-- (repetitions, failures, what was cancelled) are not here; safeguard.queries counts those of statements.
CREATE OR REPLACE VIEW safeguard.spend AS
WITH stages AS (
    SELECT
        date_trunc('day', judged_at) AS day,
        policy,
        stage,
        count(*) AS "rows",
        sum(tokens_in) AS tokens_in,
        sum(tokens_out) AS tokens_out,
        sum(seconds) AS seconds
    FROM safeguard.verdicts
    GROUP BY date_trunc('day', judged_at), policy, stage
)
SELECT
    day,
    policy,
    stage,
    "rows",
    tokens_in,
    tokens_out,
    seconds,
    seconds / nullif(sum(seconds) OVER (PARTITION BY day), 0.0) AS share,
    coalesce(sum(CASE stage WHEN 'reason' THEN seconds END) OVER (PARTITION BY day, policy), 0.0)
        / nullif(sum(seconds) OVER (PARTITION BY day, policy), 0.0) AS reasoning_share
FROM stages;
