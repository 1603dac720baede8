-- Weekly audit of a screen: a random share of the texts that the screen in force clears is put to the reasoner, on Sundays
-- at 04:00. The bound on the screen's recall is updated; where it falls below what was certified, the screen is turned off,
-- the run's notice says so, and from then on every text goes to the reasoner until a screen is trained again.
--
-- Adapt: the table and its column (messages, body), the policy, the time. Run it in psql as an admin. `sample` is how many
-- questions are asked at the most: as many as the certificate took are enough; of what was asked before, nothing is asked
-- again. A sample that is too small to tell says so and changes nothing.
--
-- What was found: SELECT at, event, standing, recall_bound, finding FROM safeguard.screens
--                 WHERE policy = 'harassment' ORDER BY certificate DESC;
-- Train again:    SELECT * FROM safeguard_train_screen('harassment', 0.95, source => 'SELECT body AS text FROM messages');
SELECT cron.schedule('audit-screen', '0 4 * * sun', $job$
SET safeguard.max_seconds = 7200;
SELECT event, recall_bound, finding
FROM safeguard_audit_screen('harassment', 'SELECT body AS text FROM messages', 500)
$job$);
