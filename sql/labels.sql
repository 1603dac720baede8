-- The current label of each policy and text: what a person said last, whatever the policy's version; else the latest
-- verdict under the text of the policy's current version. A text that is undecided shows as 'undecided', never as allowed.
-- The policy's text is matched by digest, so that verdicts count again when a policy goes back to an earlier text.
CREATE OR REPLACE VIEW safeguard.labels AS
WITH said AS (
    SELECT
        v.policy,
        v.text_digest,
        coalesce(v.label, 'undecided') AS label,
        v.violates,
        v.stage,
        'verdict' AS source,
        v.judged_at,
        v.verdict_digest AS tie
    FROM safeguard.verdicts AS v
    JOIN safeguard.policies AS p ON v.policy = p.name AND v.policy_digest = p.digest
    UNION ALL
    SELECT
        o.policy,
        o.text_digest,
        o.label,
        o.violates,
        'human' AS stage,
        'override' AS source,
        o.decided_at AS judged_at,
        '' AS tie
    FROM safeguard.overrides AS o
),
ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY policy, text_digest
            ORDER BY source, judged_at DESC, violates IS NULL, tie
        ) AS place
    FROM said
)
SELECT policy, text_digest, label, violates, stage, source, judged_at
FROM ranked
WHERE place = 1
