-- The main job in one minute: stored content, a written policy, verdicts, a changed policy.
-- Run it from the repository's root; the second run asks the model nothing.

\echo
\echo safeguard-nano, the model inside this program, is a demonstration model: it follows keyword policies it has
\echo never seen and judges the shipped policies passably. Use gpt-oss-safeguard for real work.
\echo
\echo 1. Real public content: mail, comments and prompts, 544 rows.

CREATE EXTERNAL TABLE IF NOT EXISTS messages (
    id TEXT, body TEXT, surface TEXT, lang TEXT, source TEXT
) STORED AS CSV LOCATION 'examples/data/messages.csv'
OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true');

SELECT surface, count(*) AS rows FROM messages GROUP BY surface ORDER BY surface;

\echo 2. Labels under a shipped policy. Its screen decides what it is certified for (stage screen), the model the rest:
\echo    score mode reads the label from the logits in one pass.

SET safeguard.mode = 'score';

SELECT finding FROM safeguard.screens WHERE policy = 'spam' AND standing = 'in force';

SELECT surface, v['label'] AS label, v['stage'] AS stage, count(*) AS rows
FROM (SELECT surface, safeguard_verdict('spam', body) AS v FROM messages)
GROUP BY surface, label, stage
ORDER BY surface, label, stage;

\echo 3. A keyword policy over comments and prompts, with the model's reasons (short and often wrong: it is tiny).

SET safeguard.mode = 'reason';

SELECT text AS "keywords@1" FROM safeguard.policy_versions WHERE name = 'keywords' AND version = 1;

SELECT id, v['label'] AS label, v['rationale'] AS rationale, substr(replace(body, chr(10), ' '), 1, 60) AS body
FROM (SELECT id, body, safeguard_verdict('keywords@1', body) AS v FROM messages WHERE surface <> 'mail')
WHERE v['violates']
ORDER BY id
LIMIT 10;

\echo 4. The policy changes: card and phone come in; money, free, credit and insurance go out.

SELECT * FROM safeguard_publish('keywords', $$---
title: Keywords
labels: [{name: allowed, allowed: true}, violates]
---
K1: violates if the message mentions any of: bank, account, card, phone; everything else is allowed.
$$, 'quickstart: card and phone in; money, free, credit and insurance out');

\echo 5. Which stored rows change with it? What was judged before is recalled, not asked again.

SELECT safeguard_classify('keywords@1', body) AS before, safeguard_classify('keywords@2', body) AS after, count(*) AS rows
FROM messages
WHERE surface <> 'mail'
GROUP BY before, after
ORDER BY before, after;

SELECT id, before, after, substr(replace(body, chr(10), ' '), 1, 60) AS body
FROM (
    SELECT id, body, safeguard_classify('keywords@1', body) AS before, safeguard_classify('keywords@2', body) AS after
    FROM messages WHERE surface <> 'mail'
)
WHERE before <> after
ORDER BY id
LIMIT 10;

\echo 6. What it all asked and cost.

SELECT id, status, rows, distinct_texts, recalled, screened, asked, undecided, tokens_in + tokens_out AS tokens, round(seconds, 1) AS seconds
FROM safeguard.queries
ORDER BY id DESC
LIMIT 5;
