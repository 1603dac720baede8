"""Whether a backfill judged each row exactly once, by the store's tables and by what endpoint doubles say they were asked.

    check.py --postgres CONNINFO --schema NAME --rows N [--backfill 1] [--faults faults.json] ASKED..

Knows SQL and text files, and nothing of the program. ASKED are the doubles' logs: `text asker asked answered`, seconds since
1970, `-` where nobody was answered. The faults are a list of {"what": "killed" | "cut" | "hung", "who": an address, "from":
seconds, "to": seconds}. Each question beyond the first about a text must have one of them behind it: the question before it was
in flight, or answered and not stored yet, when its asker was killed or cut off from the store, or it was in the hands of a
double that hung. Exits with 1 where anything does not hold.
"""

import argparse
import collections
import json
import sys

import psycopg

# Seconds that an answer may be on its way into the store.
STORING = 0.5

TABLES = [
    ("the backfill is done", "SELECT state FROM backfills WHERE id = %(id)s", "done"),
    ("its rows", 'SELECT "rows" FROM backfills WHERE id = %(id)s', "rows"),
    ("rows judged", "SELECT judged FROM backfills WHERE id = %(id)s", "rows"),
    ("rows failed or undecided", "SELECT failed + undecided FROM backfills WHERE id = %(id)s", 0),
    ("chunks unfinished", "SELECT count(*) FROM backfill_chunks WHERE done = 0", 0),
    ("texts given up", "SELECT count(*) FROM backfill_failures", 0),
    ("verdicts", "SELECT count(*) FROM verdicts", "rows"),
    ("texts with a verdict", "SELECT count(DISTINCT text_digest) FROM verdicts", "rows"),
    ("keys with two verdicts", "SELECT count(*) FROM (SELECT FROM verdicts GROUP BY verdict_digest HAVING count(*) > 1) AS twice", 0),
    ("texts with two verdicts of one policy's version", "SELECT count(*) FROM (SELECT FROM verdicts AS v JOIN judges AS j ON j.id = v.judge "
     "GROUP BY v.text_digest, j.policy, j.policy_version HAVING count(*) > 1) AS twice", 0),
    ("verdicts without a label", "SELECT count(*) FROM verdicts WHERE label IS NULL", 0),
    ("keys that somebody still asks about", "SELECT count(*) FROM aloft WHERE lease_until > extract(epoch FROM clock_timestamp()) * 1e6", 0),
]


def read(paths):
    asked = collections.defaultdict(list)
    for path in paths:
        double = path
        with open(path) as lines:
            for line in lines:
                text, asker, at, answered = line.split()
                asked[text].append((float(at), None if answered == "-" else float(answered), asker, double))
    for questions in asked.values():
        questions.sort()
    return asked


def behind(question, faults):
    """The fault that made a question be asked again."""
    at, answered, asker, double = question
    for fault in faults:
        begun, ended, who = fault["from"], fault["to"], fault["who"]
        out = answered is None or answered >= begun - STORING
        if fault["what"] in ("killed", "cut") and who == asker and out and at <= ended:
            return fault["what"]
        if fault["what"] == "hung" and double.endswith(f"-{who}") and answered is None and at <= ended:
            return "hung"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--schema", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--backfill", type=int, default=1)
    parser.add_argument("--faults")
    parser.add_argument("asked", nargs="+")
    given = parser.parse_args()
    faults = json.load(open(given.faults)) if given.faults else []
    bad = 0

    def says(what, found, wanted):
        nonlocal bad
        bad += found != wanted
        print(f"  {'ok ' if found == wanted else 'BAD'} {what}: {found}" + ("" if found == wanted else f", not {wanted}"))

    with psycopg.connect(given.postgres, autocommit=True) as c:
        c.execute(f'SET search_path = "{given.schema}"')
        for what, sql, wanted in TABLES:
            found = c.execute(sql, {"id": given.backfill} if "%(id)s" in sql else None).fetchone()
            says(what, found and found[0], given.rows if wanted == "rows" else wanted)
        violating = c.execute("SELECT count(*) FROM verdicts WHERE violates").fetchone()[0]
    asked = read(given.asked)
    says("texts that were asked about", len(asked), given.rows)
    # A double convicts one text in eight, by the first byte of its name.
    says("verdicts that violate, as the doubles said", violating, sum(int(text[:2], 16) < 32 for text in asked))
    total = sum(len(questions) for questions in asked.values())
    causes = collections.Counter(behind(question, faults) for questions in asked.values() for question in questions[:-1])
    says("questions asked again without a fault behind it", causes.pop(None, 0), 0)
    says("texts whose last question was not answered", sum(questions[-1][1] is None for questions in asked.values()), 0)
    print(f"  {total} questions for {given.rows} rows; asked again: " + (", ".join(f"{n} ({what})" for what, n in sorted(causes.items())) or "none"))
    for fault in faults:
        at, begun = fault["from"], ((question, question[0]) for questions in asked.values() for question in questions)
        in_hand = sum(asked_at <= at and (q[1] is None or q[1] >= at - STORING) and fault["who"] in (q[2], q[3].rsplit("-", 1)[-1]) for q, asked_at in begun)
        print(f"  in hand when {fault['who']} was {fault['what']}: {in_hand} questions")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
