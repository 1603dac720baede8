-- How far scores are probabilities: the golden rows of an evaluation in ten bins of score. Where the share that violates
-- is near the mean score, a score may be read as a probability.
CREATE OR REPLACE VIEW safeguard.evaluation_calibration AS
SELECT
    evaluation,
    policy,
    version,
    bin / 10.0 AS score_from,
    (bin + 1) / 10.0 AS score_to,
    count(*) AS n,
    avg(score) AS mean_score,
    avg(CASE WHEN golden_violates THEN 1.0 ELSE 0.0 END) AS share_violating
FROM (
    SELECT *, least(CAST(floor(score * 10) AS BIGINT), 9) AS bin
    FROM safeguard.evaluation_rows
    WHERE score IS NOT NULL
) AS binned
GROUP BY evaluation, policy, version, bin
