#!/usr/bin/env python3
"""Rows an hour and cost for some GPUs, by a formula whose every factor can be given.

    python3 examples/capacity.py                          # 1, 8 and 64 GPUs, four ways to judge
    python3 examples/capacity.py --gpus 4 --policy-tokens 1200 --gpu-price 1.9
    python3 examples/capacity.py --factors                # every factor: value, and whether it is measured, cited or a guess

A row costs the GPU

    seconds = read / read_rate + written / write_rate
    read    = policy_tokens * (1 - prefix_share) + header_tokens + text_tokens
    written = decoded_tokens, or 0 where only the label's probability is read (mode score)

and of the rows asked / rows = distinct_share * (1 - cleared_share) are put to it; rows an hour are 3600 / seconds / that, times the
GPUs, times utilisation. Reading and writing share a GPU, so their times add up. Servers are as many as it takes to keep
in_flight questions at each GPU where each server keeps server_in_flight; the cost is of GPUs, servers and one database.
"""

import argparse
import math

# name, value, kind, where it is from
FACTORS = [
    ("policy-tokens", 600, "assumed", "a policy; published ones have 700 to 1900, those shipped here 100 to 200"),
    ("text-tokens", 100, "assumed", "a text; public sets have a median of 8 to 30 (comments), 81 (OpenAI's), 280 (mail)"),
    ("header-tokens", 62, "counted", "of the prompt's form: 50 in front of the policy, 12 around the text"),
    ("decoded-tokens", 160, "cited", "median of 6,215 recorded answers of gpt-oss-safeguard-20b at effort medium; their mean is 309"),
    ("prefix-share", 0.95, "guess", "of the policy's tokens that the server finds in its prefix cache; here it was measured on the embedded model only (reading anew halves its rows/s)"),
    ("read-rate", 33_800, "cited", "tokens/s of vLLM on one H100 with 20b and long prompts, in and out together (GPUStack's performance lab)"),
    ("write-rate", 5_800, "cited", "tokens/s decoded by vLLM with 20b on two GPUs (its pull request 23369): for one GPU a guess"),
    ("utilisation", 0.95, "measured", "of what the questions in flight allow, on doubles of 200 ms (benches/README.md): .95 to .99"),
    ("distinct-share", 1.0, "assumed", "of the rows; equal texts are asked about once. Measured: .994 on OpenAI's set by policy, .20 over its categories"),
    ("cleared-share", 0.0, "assumed", "of the texts, decided by a screen without a question. Certified for shipped screens: .24 to .95 (benches/README.md)"),
    ("in-flight", 64, "guess", "questions at one GPU at once"),
    ("server-in-flight", 168, "counted", "questions of one server at once that a backfill gets: 192, of which an eighth is left to other work"),
    ("gpu-price", 2.5, "guess", "dollars an hour of an H100"),
    ("server-price", 0.1, "guess", "dollars an hour of a server of 2 cores"),
    ("database-price", 0.5, "guess", "dollars an hour of PostgreSQL"),
    ("bytes-a-verdict", 410, "measured", "in PostgreSQL with its indexes and a short rationale (benches/fleet)"),
]

WAYS = [
    ("label only (mode score)", {"decoded_tokens": 0}),
    ("reason", {}),
    ("reason, mean length of answers", {"decoded_tokens": 309}),
    ("reason, a screen clears half (a guess)", {"cleared_share": 0.5}),
]


def capacity(f, gpus):
    """Rows an hour, dollars an hour, servers, questions a second."""
    read = f["policy_tokens"] * (1 - f["prefix_share"]) + f["header_tokens"] + f["text_tokens"]
    seconds = read / f["read_rate"] + f["decoded_tokens"] / f["write_rate"]
    questions = gpus * f["utilisation"] / seconds
    asked = f["distinct_share"] * (1 - f["cleared_share"])
    servers = math.ceil(gpus * f["in_flight"] / f["server_in_flight"])
    dollars = gpus * f["gpu_price"] + servers * f["server_price"] + f["database_price"]
    return questions / asked * 3600, dollars, servers, questions


def three(n):
    """Three digits of a number say all that such a formula knows."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,8,64")
    parser.add_argument("--factors", action="store_true", help="list the factors")
    for name, value, kind, where in FACTORS:
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{kind}: {where} [{value}]".replace("%", "%%"))
    given = parser.parse_args()
    if given.factors:
        print("| factor | value | | where it is from |\n|---|---|---|---|")
        for name, value, kind, where in FACTORS:
            now = getattr(given, name.replace("-", "_"))
            print(f"| {name} | {now} | {kind if now == value else 'given'} | {where if now == value else ''} |")
        return
    print("| judged | GPUs | rows an hour | a billion rows | dollars a million rows | servers | questions/s | store a billion rows |\n|---|---|---|---|---|---|---|---|")
    for way, over in WAYS:
        factors = {**vars(given), **{key: value for key, value in over.items() if getattr(given, key) == dict((n.replace("-", "_"), v) for n, v, *_ in FACTORS)[key]}}
        for gpus in map(int, given.gpus.split(",")):
            rows, dollars, servers, questions = capacity(factors, gpus)
            days = 1e9 / rows / 24
            store = 1e9 * factors["distinct_share"] * factors["bytes_a_verdict"] / 2**30
            print(f"| {way} | {gpus} | {three(rows)} | {days:.3g} days | {dollars / rows * 1e6:.3g} | {servers} | {questions:.0f} | {store:.0f} GiB |")


if __name__ == "__main__":
    main()
