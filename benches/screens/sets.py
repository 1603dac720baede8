"""The labelled rows from which the shipped screens are made and measured, as one CSV.

    python3 benches/screens/sets.py DATA > sets.csv

DATA is a folder of public sets, `<set>/<set>.csv` with columns id, text, gold, category (policies/README.md names them and
their licences). Columns of the result: policy, text, gold, part (train or held), known (1 where the set labels this policy,
0 where a text is plainly no business of it: such rows only help to train). E-mail addresses, links and long numbers are
masked. A text is held out when the first 8 hexadecimal digits of its SHA-256, mod 100, are below 15: the split by which the
embedded model was trained. The texts are offensive by design.
"""

import collections
import csv
import hashlib
import re
import sys
from pathlib import Path

csv.field_size_limit(10**9)
POLICIES = ["harassment", "hate", "illicit", "self-harm", "sexual", "spam", "toxicity", "violence"]
MASKS = [
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "<email>"),
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\d{7,}"), "<number>"),
    (re.compile(r"\n{3,}"), "\n\n"),
    (re.compile(r"[ \t]+"), " "),
]
# Texts that name minors beside sexual or abusive words are left out, as they were for the embedded model.
MINOR = re.compile(
    r"\b(child|children|kid|kids|minor|minors|teen|teens|teenager|underage|preteen|boy|boys|girl|girls|daughter|son|sister|"
    r"brother|cousin|student|school\w*|niece|nephew|toddler|baby|loli\w*|young|little|year[- ]old|1[0-7])\b", re.I)
ABUSE = re.compile(
    r"\b(sex\w*|porn\w*|nude\w*|naked|rape\w*|molest\w*|pedo\w*|paedo\w*|erotic\w*|incest\w*|groom\w*|fuck\w*|cock|dick|"
    r"penis|vagina|pussy|orgasm\w*|cum|breasts?|horny|slut\w*|seduc\w*|abus\w*)\b", re.I)


def masked(text):
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text.strip()


class Rows:
    def __init__(self, data):
        self.data, self.known, self.weak = data, collections.defaultdict(dict), collections.defaultdict(set)

    def of(self, name):
        with open(self.data / name / f"{name}.csv", encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def add(self, text, labels, allowed=(), mail=False):
        text = masked(text)
        if not text or (not mail and MINOR.search(text) and ABUSE.search(text)):
            return
        self.known[text].update(labels)
        self.weak[text].update(allowed)


def collected(data):
    rows = Rows(data)
    ours = {"H": "hate", "HR": "harassment", "S": "sexual", "V": "violence", "SH": "self-harm"}
    with open(data / "openai_mod_2022" / "openai_mod_2022_by_category.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            category = row["category"].split("|")[0]
            if category in ours:
                rows.add(row["text"], {ours[category]: int(row["gold"])})
            elif row["gold"] == "1":
                rows.add(row["text"], {"hate" if category == "H2" else "violence": 1})
    for name in ["hatecheck_en", "hatemojicheck"]:
        for row in rows.of(name):
            kind, gold = row["category"].split("|")[0], int(row["gold"])
            labels, allowed = {"hate": gold}, {"spam", "sexual", "self-harm"}
            if gold:
                labels["toxicity"] = 1
            if name == "hatecheck_en":
                if kind.startswith("threat_"):
                    labels["violence"] = 1
                if kind == "target_indiv_nh":
                    labels["harassment"] = 1
                if kind in ("ident_pos_nh", "ident_neutral_nh", "slur_homonym_nh"):
                    allowed |= {"toxicity", "harassment", "violence", "illicit"}
                if kind == "profanity_nh":
                    allowed |= {"harassment", "violence", "illicit"}
            rows.add(row["text"], labels, allowed)
    for row in rows.of("surge_toxicity"):
        gold = int(row["gold"])
        allowed = {"spam", "self-harm"} if gold else set(POLICIES) - {"toxicity"}
        rows.add(row["text"], {"toxicity": gold}, allowed)
    for row in rows.of("spamassassin_sample"):
        gold = int(row["gold"])
        allowed = {"hate", "harassment", "violence", "self-harm", "toxicity"} | (set() if gold else {"sexual", "illicit"})
        rows.add(row["text"][:3000], {"spam": gold}, allowed, mail=True)
    for row in rows.of("safeguard_spam_golden"):
        rows.add(row["text"], {"spam": int(row["gold"])}, set(POLICIES) - {"spam", "illicit"})
    for row in rows.of("xstest"):
        gold = int(row["gold"])
        allowed = {"spam"} if gold else {"spam", "hate", "harassment", "sexual", "self-harm", "toxicity"}
        rows.add(row["text"], {"illicit": gold}, allowed)
    for row in rows.of("simple_safety_tests"):
        harm = row["category"].startswith("Suicide")
        rows.add(row["text"], {"self-harm": 1} if harm else {"illicit": 1, "self-harm": 0}, {"spam"})
    for row in rows.of("harmbench"):
        allowed = {"spam", "sexual"} if row["category"] in ("copyright", "cybercrime_intrusion") else {"spam"}
        rows.add(row["text"], {"illicit": 1, "self-harm": 0}, allowed)
    hazards = {"ssh": "self-harm", "hte": "hate", "sxc_prn": "sexual", "vcr": "illicit", "ncr": "illicit", "iwp": "illicit"}
    for row in rows.of("ailuminate_en"):
        code = row["category"]
        if code in hazards:
            allowed = {"spam"} | ({"self-harm"} if code in ("ncr", "iwp") else set())
            allowed |= {"sexual", "hate"} if code in ("ncr", "iwp", "ssh") else set()
            rows.add(row["text"], {hazards[code]: 1}, allowed)
    for row in rows.of("roost_teen_safety"):
        policy = row["category"].split("|")[0]
        if policy == "graphic-violent-content":
            rows.add(row["text"], {"violence": int(row["gold"])}, {"spam"})
        elif policy in ("age-restricted-goods-and-services", "harmful-body-ideals") and row["gold"] == "0":
            rows.add(row["text"], {}, {"spam", "hate", "sexual", "harassment", "violence"})
    return rows


def main():
    rows = collected(Path(sys.argv[1]))
    out = csv.writer(sys.stdout)
    out.writerow(["policy", "text", "gold", "part", "known"])
    for text, labels in rows.known.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        part = "held" if int(digest[:8], 16) % 100 < 15 else "train"
        for policy in POLICIES:
            if policy in labels:
                out.writerow([policy, text, labels[policy], part, 1])
            elif policy in rows.weak[text]:
                out.writerow([policy, text, 0, part, 0])


if __name__ == "__main__":
    main()
