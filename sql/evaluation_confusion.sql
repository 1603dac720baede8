-- Which label is taken for which: golden label against the label that was given, 'undecided' where there was none.
CREATE OR REPLACE VIEW safeguard.evaluation_confusion AS
SELECT
    evaluation,
    policy,
    version,
    golden_label,
    coalesce(label, 'undecided') AS label,
    count(*) AS n
FROM safeguard.evaluation_rows
GROUP BY evaluation, policy, version, golden_label, coalesce(label, 'undecided')
