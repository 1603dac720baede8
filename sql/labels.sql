-- The current label of each policy and text: what a person said last, whatever the policy's version; else the latest
-- verdict under the text of the policy's current version. A text that is undecided shows as 'undecided', never as allowed.
-- What a model scored gives way to what the same model reasoned, whenever that was: scores that mode auto did not trust,
-- and those of a calibration, are verdicts too. What a screen decided gives way to whatever a model said, undecided
-- included, and no longer counts when the screen was turned off.
-- The policy's text is matched by digest, so that verdicts count again when a policy goes back to an earlier text.
CREATE OR REPLACE VIEW safeguard.labels AS
WITH told AS (
    SELECT
        screen_digest,
        state,
        row_number() OVER (PARTITION BY screen_digest ORDER BY certificate DESC) AS place
    FROM safeguard.screens
    WHERE slice IS NULL
),
said AS (
    SELECT
        v.policy,
        v.text_digest,
        coalesce(v.label, 'undecided') AS label,
        v.violates,
        v.stage,
        'verdict' AS source,
        v.judged_at,
        v.verdict_digest AS tie,
        v.model_digest
    FROM safeguard.verdicts AS v
    JOIN safeguard.policies AS p ON v.policy = p.name AND v.policy_digest = p.digest
    LEFT JOIN told AS t ON v.model_digest = t.screen_digest AND t.place = 1
    WHERE v.stage <> 'screen' OR t.state = 'on'
    UNION ALL
    SELECT
        o.policy,
        o.text_digest,
        o.label,
        o.violates,
        'human' AS stage,
        'override' AS source,
        o.decided_at AS judged_at,
        '' AS tie,
        '' AS model_digest
    FROM safeguard.overrides AS o
),
weighed AS (
    SELECT
        *,
        stage = 'screen' AS screened,
        stage = 'score' AND max(CASE WHEN stage = 'reason' THEN 1 ELSE 0 END) OVER (
            PARTITION BY policy, text_digest, model_digest
        ) = 1 AS outdone
    FROM said
),
ranked AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY policy, text_digest
            ORDER BY source, screened, outdone, judged_at DESC, violates IS NULL, tie
        ) AS place
    FROM weighed
)
SELECT policy, text_digest, label, violates, stage, source, judged_at
FROM ranked
WHERE place = 1
