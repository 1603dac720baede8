-- Nightly audit of new rows: every text of the last day is judged once, at 03:00 in the server's cron_timezone.
--
-- Adapt: the table and its columns (messages, body, created_at) and the policies. Run it in psql as an admin. Verdicts are
-- stored as they are reached, so that a run that is cut short loses nothing and the next one asks only what is left:
-- the two days in the condition give a missed night a second chance, and what was judged before is recalled.
-- max_seconds ends the questions after two hours; the rest stays `undecided: budget` and is asked the night after.
--
-- What was found: SELECT label, count(*) FROM safeguard.labels WHERE policy = 'harassment' GROUP BY label;
-- What it cost:   SELECT * FROM cron.job_run_details ORDER BY runid DESC LIMIT 1;
SELECT cron.schedule('nightly-audit', '0 3 * * *', $job$
SET safeguard.max_seconds = 7200;
SELECT p.name, safeguard_classify(p.name, m.body) AS label, count(*)
FROM messages AS m
CROSS JOIN (VALUES ('harassment'), ('spam')) AS p (name)
WHERE m.created_at > now() - INTERVAL '2 days'
GROUP BY p.name, label
$job$);
