-- How often each rule was cited, and how often the label beside it was the golden one. A text that cites two rules counts
-- under both.
CREATE OR REPLACE VIEW safeguard.evaluation_rules AS
SELECT
    evaluation,
    policy,
    version,
    rule,
    count(*) AS n,
    sum(CASE WHEN label = golden_label THEN 1 ELSE 0 END) AS "right"
FROM (
    SELECT evaluation, policy, version, label, golden_label, unnest(rules) AS rule
    FROM safeguard.evaluation_rows
) AS cited
GROUP BY evaluation, policy, version, rule
