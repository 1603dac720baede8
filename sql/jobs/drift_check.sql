-- Drift check by replay: on the first of each month at 06:00 a few stored verdicts are asked again, as they were asked, and
-- only those that are not the same any more are counted. A model that is served anew, a driver or a processor can change
-- answers without anybody having said so.
--
-- Adapt: pin a dozen verdicts by the beginnings of their digests, some near the border and some of each label
--     SELECT verdict_digest, policy, label, score FROM safeguard.verdicts ORDER BY abs(score - 0.5) LIMIT 12;
-- and the query that their texts are found in (the store keeps no texts). Run it in psql as an admin. Replays are asked,
-- not recalled, and stored nowhere.
--
-- What was found: SELECT return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 1;
--                 `SELECT 0` says that nothing drifted; otherwise run the SELECT by hand to see what and why.
SELECT cron.schedule('drift-check', '0 6 1 * *', $job$
SELECT verdict, status, differs, why
FROM safeguard_replay('0123456789abcdef', source => 'SELECT body FROM messages')
WHERE status <> 'equal'
$job$);
