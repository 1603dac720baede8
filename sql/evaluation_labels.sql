-- Each label's figures in each evaluation, to be followed over versions. Intervals are in what safeguard_evaluate gives.
CREATE OR REPLACE VIEW safeguard.evaluation_labels AS
SELECT
    evaluation,
    policy,
    version,
    said AS label,
    sum(golden) AS n,
    sum(given) AS predicted,
    sum(golden * given) AS "right",
    CAST(sum(golden * given) AS DOUBLE) / nullif(sum(given), 0) AS "precision",
    CAST(sum(golden * given) AS DOUBLE) / nullif(sum(golden), 0) AS recall,
    2 * CAST(sum(golden * given) AS DOUBLE) / (sum(golden) + sum(given)) AS f1
FROM (
    SELECT
        evaluation,
        policy,
        version,
        golden_label AS said,
        1 AS golden,
        CASE WHEN label = golden_label THEN 1 ELSE 0 END AS given
    FROM safeguard.evaluation_rows
    UNION ALL
    SELECT evaluation, policy, version, label AS said, 0 AS golden, 1 AS given
    FROM safeguard.evaluation_rows
    WHERE label IS NOT NULL AND label <> golden_label
) AS counted
GROUP BY evaluation, policy, version, said
