"""The shipped policies judged by nano alone, and by their screens with nano for what these leave: on held-out rows.

    python3 benches/screens/sets.py DATA > sets.csv
    python3 benches/screens/nano.py target/release/safeguard sets.csv [--mode score]

For each policy: F1 of the labels and AUC of the scores over the held-out labelled rows, questions put to the model, rows a
second. Every run has a store of its own, so that nothing is recalled. The baseline is the n-gram classifier that nano's card
names (mean AUC .953, F1 .831), trained on all rows that are not held out.
"""

import argparse
import csv
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

csv.field_size_limit(10**9)


def held(sets):
    rows = {}
    with open(sets, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["part"] == "held" and row["known"] == "1":
                rows.setdefault(row["policy"], []).append((row["text"], int(row["gold"])))
    return rows


def ask(binary, mode, screen, policy, rows):
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "rows.csv", "w", encoding="utf-8", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(["id", "body"])
            out.writerows((at, text) for at, (text, _) in enumerate(rows))
        sql = (
            "CREATE EXTERNAL TABLE held (id BIGINT, body TEXT) STORED AS CSV LOCATION 'rows.csv' "
            "OPTIONS ('format.has_header' 'true', 'format.newlines_in_values' 'true');"
            f"SET safeguard.mode = '{mode}'; SET safeguard.screen = {screen};"
        )
        judge = (f"SELECT id, safeguard_classify('{policy}', body) AS label, safeguard_score('{policy}', body) AS score, "
                 f"(safeguard_verdict('{policy}', body)).stage AS stage FROM held ORDER BY id")
        count = "SELECT rows, screened, asked, undecided, seconds FROM safeguard.queries ORDER BY id DESC LIMIT 1"
        began = time.perf_counter()
        done = subprocess.run([binary, "sql", "--data-dir", "data", "--format", "csv", "-c", sql, "-c", judge, "-c", count],
                              cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(done.stderr)
        table, log = done.stdout.rsplit("rows,screened", 1)
        answers = list(csv.DictReader(io.StringIO(table)))
        log = dict(zip(["rows", "screened", "asked", "undecided", "seconds"], log.splitlines()[1].split(",")))
        assert len(answers) == len(rows), (len(answers), len(rows))
        return answers, log, seconds


def f1(answers, rows):
    said = [answer["label"] != "allowed" for answer in answers]
    right = sum(s and gold for s, (_, gold) in zip(said, rows))
    return 2 * right / max(sum(said) + sum(gold for _, gold in rows), 1)


def auc(answers, rows):
    scored = sorted((float(answer["score"]), gold) for answer, (_, gold) in zip(answers, rows))
    violating = sum(gold for _, gold in scored)
    others, sum_, at = len(scored) - violating, 0.0, 0
    below = 0
    while at < len(scored):
        to = at
        while to < len(scored) and scored[to][0] == scored[at][0]:
            to += 1
        here = sum(gold for _, gold in scored[at:to])
        sum_ += here * (below + (to - at - here) / 2)
        below += to - at - here
        at = to
    return sum_ / (violating * others)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("sets")
    parser.add_argument("--mode", default="score")
    given = parser.parse_args()
    binary = str(Path(given.binary).resolve())
    print(" ".join(sys.argv))
    print("| policy | rows (violating) | nano: F1 | AUC | asked | rows/s | screen and nano: F1 | AUC | asked | undecided | rows/s |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    sums = [0.0] * 4
    policies = held(given.sets)
    for policy, rows in sorted(policies.items()):
        cells = []
        for at, screen in enumerate(["off", "on"]):
            answers, log, _ = ask(binary, given.mode, screen, policy, rows)
            figures = f1(answers, rows), auc(answers, rows)
            for k in (0, 1):
                sums[2 * at + k] += figures[k] / len(policies)
            cells += [f"{figures[0]:.3f}", f"{figures[1]:.3f}", log["asked"]]
            if screen == "on":
                cells.append(log["undecided"])
            cells.append(f"{len(rows) / float(log['seconds']):.0f}")
        print(f"| {policy} | {len(rows)} ({sum(gold for _, gold in rows)}) | {' | '.join(cells)} |", flush=True)
    print(f"| mean | | {sums[0]:.3f} | {sums[1]:.3f} | | | {sums[2]:.3f} | {sums[3]:.3f} | | | |")


if __name__ == "__main__":
    main()
