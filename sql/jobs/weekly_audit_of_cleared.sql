-- Weekly audit of cleared rows: a random two percent of the texts whose stored label is the allowed one are judged once
-- more, by reasoning, on Sundays at 05:00. What reasoning does not call allowed was cleared wrongly, or is a question for
-- a person.
--
-- Adapt: the table and its column (messages, body), the policy, its allowed label, the mode in which rows are cleared, and
-- the share. Run it in psql as an admin. The first half reads what stands and asks nothing (answer = stored); the second
-- half is another mode's question, stored under a key of its own, so that it costs what it samples. A text that was
-- reasoned about before is recalled and agrees with itself: this audits scores, not reasoning.
--
-- What was found: SELECT l.* FROM safeguard.labels AS l WHERE l.policy = 'harassment' AND l.violates
--                 ORDER BY judged_at DESC;
-- What it cost:   SELECT "rows", asked, undecided, notices FROM cron.job_run_details ORDER BY runid DESC LIMIT 1;
SELECT cron.schedule('weekly-audit-of-cleared', '0 5 * * sun', $job$
SET safeguard.answer = 'stored';
SET safeguard.mode = 'score';
CREATE OR REPLACE TABLE audit_of_cleared AS
SELECT DISTINCT body
FROM (SELECT body FROM messages WHERE random() < 0.02) AS sampled
WHERE safeguard_classify('harassment', body) = 'allowed';

SET safeguard.answer = 'wait';
SET safeguard.mode = 'reason';
SET safeguard.max_seconds = 7200;
SELECT safeguard_classify('harassment', body) AS label, count(*) FROM audit_of_cleared GROUP BY label;
DROP TABLE audit_of_cleared
$job$);
