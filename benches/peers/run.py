"""The same weights and the same shape of rows through this engine, llama.cpp and transformers; ratios printed.

    python benches/peers/run.py --model DIR --gguf FILE --llama-bin DIR --safeguard target/release/safeguard

First every peer tries its own settings and keeps its best one; then all engines take turns, round after round, on the
same processors. Prints a table in Markdown with medians, ranges and ratios, and every command line that made it.
How to get the peers: README.md beside this file. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
from itertools import combinations, product
from pathlib import Path
from statistics import median
from typing import Any

from llama_server import LlamaServer

HERE = Path(__file__).parent
# What score mode appends to a text before it reads the label: the end of the user's message, an empty analysis and the
# final header.
FORCED_TOKENS = 12
# llama-batched-bench writes through a logger in another thread and sometimes exits before that thread has written.
LOST_OUTPUT_TRIES = 8
# llama.cpp can lay MXFP4 weights out anew at load for its matrix kernels; neither layout wins everywhere.
REPACK = {True: ["--repack"], False: ["--no-repack"]}
# A number (sequences, or tokens of a micro-batch) and whether weights are laid out anew.
Setting = tuple[int, bool]
PREFILL, LABEL, DECODE = "prefill tokens/s", "label-only rows/s", "decode tokens/s"


def numbers(text: str) -> list[int]:
    """'1,4,8' -> [1, 4, 8]"""
    return [int(word) for word in text.split(",")]


def switches(text: str) -> list[bool]:
    """'1,0' -> [True, False]"""
    return [number != 0 for number in numbers(text)]


def arguments() -> argparse.Namespace:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", type=Path, required=True, help="folder with config.json and model*.safetensors")
    words.add_argument("--gguf", type=Path, required=True, help="the same weights, from to_gguf.py")
    words.add_argument("--llama-bin", type=Path, required=True, help="llama-server, llama-bench, llama-batched-bench")
    words.add_argument("--safeguard", type=Path, default=Path("target/release/safeguard"))
    words.add_argument("--transformers", type=Path, metavar="PYTHON", help="a Python that has torch and transformers")
    words.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of transformers")
    words.add_argument("--parts", default="prefill,label,decode", help="which measures the peers run")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--prefix-tokens", type=int, default=600)
    words.add_argument("--text-tokens", type=int, default=100)
    words.add_argument("--rows", type=int, default=64, help="rows of this engine in a round")
    words.add_argument("--peer-rows", type=int, default=32, help="rows of a peer in a round")
    words.add_argument("--slots", type=int, default=32, help="sequences that this engine decodes together")
    words.add_argument("--decode-tokens", type=int, default=16, help="tokens a sequence of llama.cpp in a round")
    words.add_argument("--label-parallel", type=numbers, default="1,4,8,16", help="-np to try")
    words.add_argument("--decode-parallel", type=numbers, default="1,2,4,8,16,32", help="-npl to try")
    words.add_argument("--ubatch", type=numbers, default="512,2048", help="-ub to try for prefill")
    words.add_argument("--repack", type=switches, default="1,0", help="weights laid out anew at load: 1, 0 or both")
    words.add_argument("--llama-args", default="", help="more words for llama-server")
    words.add_argument("--json", type=Path, help="also write every number to this file")
    return words.parse_args()


def name(setting: Setting) -> str:
    """As the table and the log say it."""
    return f"{setting[0]} {REPACK[setting[1]][0]}"


class Bench:
    """Runs each engine once, on the arguments' terms, and remembers the command lines."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.commands: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.shares: dict[str, list[float]] = {}
        config = json.loads((given.model / "config.json").read_text())
        self.task = make_rows(config["vocab_size"], given)
        self.task_file = folder / "rows.json"
        self.task_file.write_text(json.dumps(self.task))

    def output(self, what: str, command: list[Any]) -> str:
        """A command's standard output; a failure ends the run with its last words."""
        line = [str(word) for word in command]
        self.commands[what] = shlex.join(line)
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"failed: {self.commands[what]}\n{done.stderr[-3000:]}")
        return done.stdout

    def ours(self) -> dict[str, float]:
        """All measures of this engine, by its own bench; on the peers' very rows where it can read them."""
        given = self.given
        command = [
            given.safeguard, "model", "bench", "--model", given.model, "--prefix-tokens", given.prefix_tokens,
            "--text-tokens", given.text_tokens, "--rows", given.rows, "--slots", given.slots, "--json",
        ]  # fmt: skip
        if "--rows-file" in first_line([str(given.safeguard), "model", "bench", "--help"], "--rows-file"):
            command += ["--rows-file", self.task_file]
        for path in given.model.glob("*.safetensors"):
            read_through(path)
        found = json.loads(self.output("safeguard", command))
        if "p" in found:
            self.shares["safeguard"] = found["p"]
        if found["threads"] != given.threads:
            raise SystemExit(f"safeguard used {found['threads']} threads, not {given.threads}")
        self.notes["safeguard"] = f"load {found['load_s']:.1f} s, resident {found['resident_bytes'] / 1e9:.2f} GB"
        keys = {PREFILL: "prefill_tokens_per_s", LABEL: "label_rows_per_s", DECODE: "decode_tokens_per_s"}
        return {measure: found[key] for measure, key in keys.items()}

    def prefill(self, ubatch: int, repack: bool) -> float:
        """llama.cpp's tokens/s over one prompt as long as the policy and a text, or as `ubatch` if that is longer."""
        given = self.given
        tokens = max(given.prefix_tokens, ubatch)
        command = [
            given.llama_bin / "llama-bench", "-m", given.gguf, "-p", tokens, "-n", 0, "-t", given.threads,
            "-b", tokens, "-ub", ubatch, "--repack", int(repack), "-r", 1, "-o", "json",
        ]  # fmt: skip
        return json.loads(self.output("llama.cpp, prefill", command))[0]["avg_ts"]

    def label(self, slots: int, repack: bool, rows: int) -> float:
        """llama.cpp's server: rows/s with the policy cached in every slot."""
        given, task = self.given, self.task
        slot_tokens = given.prefix_tokens + given.text_tokens + FORCED_TOKENS + 32
        more = [*REPACK[repack], *given.llama_args.split()]
        server = LlamaServer(given.llama_bin / "llama-server", given.gguf, slots, slot_tokens, given.threads, more)
        self.commands["llama.cpp, rows"] = shlex.join(server.command)
        prompts = [task["prefix"] + row for row in task["rows"][:rows]]
        with server:
            server.warm(task["prefix"])
            seconds, shares, computed = server.labels(prompts, tuple(task["labels"]))
            bytes_now = server.peak_bytes()
        self.shares["llama.cpp"] = shares
        self.notes["llama.cpp server"] = (
            f"-np {slots}: {computed:.0f} tokens computed a row of {len(prompts[0])}, "
            f"load {server.load_seconds:.1f} s, peak resident {bytes_now / 1e9:.2f} GB"
        )
        return rows / seconds

    def decode(self, parallel: list[int], repack: bool) -> dict[int, float]:
        """llama.cpp's decoded tokens/s, all sequences together, by the number of sequences; the prompt is shared."""
        given = self.given
        context = given.prefix_tokens + max(parallel) * given.decode_tokens
        command = [
            given.llama_bin / "llama-batched-bench", "-m", given.gguf, "-c", context, "-b", 2048, "-ub", 512,
            "-t", given.threads, "-tb", given.threads, "-npp", given.prefix_tokens, "-ntg", given.decode_tokens,
            "-npl", ",".join(map(str, parallel)), "-pps", "-kvu", "--output-format", "jsonl",
            *REPACK[repack],
        ]  # fmt: skip
        for _ in range(LOST_OUTPUT_TRIES):
            text = self.output("llama.cpp, decode", command)
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            found = {line["pl"]: line["speed_tg"] for line in lines}
            if found.keys() == set(parallel):
                return found
        raise SystemExit(f"no figures from: {self.commands['llama.cpp, decode']}")

    def transformers(self) -> float:
        """transformers' rows/s at its best batch."""
        given = self.given
        short = self.task_file.with_name("peer-rows.json")
        short.write_text(json.dumps(self.task | {"rows": self.task["rows"][: given.peer_rows]}))
        command = [
            given.transformers, HERE / "hf_rows.py", "--model", given.model, "--rows", short,
            "--threads", given.threads, "--dtype", given.dtype,
        ]  # fmt: skip
        found = json.loads(self.output("transformers", command).splitlines()[-1])
        self.shares["transformers"] = found["p"]
        self.notes["transformers"] = (
            f"{found['transformers']}, torch {found['torch']}, {given.dtype}, batch {found['batch']}, "
            f"load {found['load_s']:.1f} s"
        )
        return found["rows_per_s"]


def read_through(path: Path) -> None:
    """Brings a file into the page cache: a peer's larger file may have pushed it out since the last round, and a mapped
    checkpoint would pay for that inside the measure (llama.cpp copies its file at load, before any clock)."""
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def make_rows(vocabulary: int, given: argparse.Namespace) -> dict[str, Any]:
    """Random ordinary tokens: special ones have the highest ids, and the time does not depend on which they are."""
    chance = random.Random(1)

    def some(count: int) -> list[int]:
        return [chance.randrange(vocabulary * 9 // 10) for _ in range(count)]

    forced = some(FORCED_TOKENS)
    rows = [some(given.text_tokens) + forced for _ in range(max(given.rows, given.peer_rows))]
    return {"prefix": some(given.prefix_tokens), "rows": rows, "labels": some(2)}


def best_settings(bench: Bench, parts: list[str]) -> dict[str, Setting]:
    """Each of llama.cpp's measures once per setting; gives the setting that won. The server runs with the kind of
    weights that won at prefill, which is what its rows are made of."""
    given = bench.given
    tried: dict[str, dict[Setting, float]] = {part: {} for part in parts}
    best: dict[str, Setting] = {}

    def choose(part: str) -> None:
        best[part] = max(tried[part], key=tried[part].__getitem__)
        print(f"tried, {part}:", ", ".join(f"{name(k)}: {v:.3g}/s" for k, v in tried[part].items()), flush=True)

    if "prefill" in parts:
        for ubatch, repack in product(given.ubatch, given.repack):
            tried["prefill"][ubatch, repack] = bench.prefill(ubatch, repack)
        choose("prefill")
    if "label" in parts:
        weights = [best["prefill"][1]] if "prefill" in best else given.repack
        for slots, repack in product(given.label_parallel, weights):
            rows = min(given.peer_rows, max(4, 2 * slots))
            tried["label"][slots, repack] = bench.label(slots, repack, rows)
        choose("label")
    if "decode" in parts:
        for repack in given.repack:
            for sequences, speed in bench.decode(given.decode_parallel, repack).items():
                tried["decode"][sequences, repack] = speed
        choose("decode")
    return best


def take_turns(bench: Bench, best: dict[str, Setting]) -> dict[str, dict[str, list[float]]]:
    """Engine -> measure -> one number a round."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(engine: str, measure: str, value: float) -> None:
        found.setdefault(engine, {}).setdefault(measure, []).append(value)
        print(f"  {engine}: {measure} {value:.3g}", flush=True)

    for turn in range(bench.given.rounds):
        print(f"round {turn + 1}", flush=True)
        if bench.given.safeguard.exists():
            for measure, value in bench.ours().items():
                note("safeguard", measure, value)
        if "prefill" in best:
            note("llama.cpp", PREFILL, bench.prefill(*best["prefill"]))
        if "label" in best:
            note("llama.cpp", LABEL, bench.label(*best["label"], bench.given.peer_rows))
        if "decode" in best:
            sequences, repack = best["decode"]
            note("llama.cpp", DECODE, bench.decode([sequences], repack)[sequences])
        if bench.given.transformers:
            note("transformers", LABEL, bench.transformers())
    return found


def first_line(command: list[str], marker: str = "") -> str:
    """The first line of a command's output that holds `marker`."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return "not there"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if marker in line]
    return lines[0] if lines else "unknown"


def header(given: argparse.Namespace) -> list[str]:
    """What a figure must carry to be read later: date, machine, versions."""
    processor = first_line(["grep", "-m1", "model name", "/proc/cpuinfo"]).split(": ")[-1]
    revision = first_line(["git", "-C", str(HERE), "describe", "--always", "--dirty"])
    llama = first_line([str(given.llama_bin / "llama-server"), "--version"], "version")
    return [
        f"- date: {datetime.date.today()}; processor: {processor}; {given.threads} threads each, on "
        f"{len(os.sched_getaffinity(0))} processors",
        f"- safeguard: {first_line([str(given.safeguard), '--version'])}, revision {revision}; llama.cpp: {llama}",
        f"- model: {given.model.name}; GGUF {given.gguf.stat().st_size / 1e9:.2f} GB; policy {given.prefix_tokens} tokens, "
        f"texts {given.text_tokens} + {FORCED_TOKENS}; {given.rounds} rounds, medians (least - most)",
        f"- command: {shlex.join(['python', *sys.argv])}",
    ]


def table(found: dict[str, dict[str, list[float]]], best: dict[str, Setting]) -> list[str]:
    """Markdown: one line per peer and measure."""

    def cell(values: list[float] | None) -> str:
        return f"{median(values):.4g} ({min(values):.4g} - {max(values):.4g})" if values else "-"

    flags = {PREFILL: ("-ub", "prefill"), LABEL: ("-np", "label"), DECODE: ("-npl", "decode")}
    settings = {measure: f"{flag} {name(best[part])}" for measure, (flag, part) in flags.items() if part in best}
    lines = ["| measure | peer | its best setting | peer | safeguard | ratio |", "|---|---|---|---|---|---|"]
    for peer in ("llama.cpp", "transformers"):
        for measure, theirs in found.get(peer, {}).items():
            ours = found.get("safeguard", {}).get(measure)
            ratio = f"{median(ours) / median(theirs):.2f}" if ours else "-"
            setting = settings[measure] if peer == "llama.cpp" else "batch below"
            lines.append(f"| {measure} | {peer} | {setting} | {cell(theirs)} | {cell(ours)} | {ratio} |")
    return lines


def agreement(shares: dict[str, list[float]]) -> list[str]:
    """How far the engines' P(first label) differ on the rows that both judged."""
    lines = []
    for (one, ours), (other, theirs) in combinations(shares.items(), 2):
        pairs = list(zip(ours, theirs))
        off = sorted(abs(a - b) for a, b in pairs)
        same = sum((a > 0.5) == (b > 0.5) for a, b in pairs)
        lines.append(
            f"- {one} and {other}, {len(pairs)} rows: same label {same}, "
            f"|difference of P| median {median(off):.4f}, most {off[-1]:.4f}"
        )
    return lines


def main() -> None:
    """Settings, rounds, table."""
    given = arguments()
    busy = os.getloadavg()[0]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "RAYON_NUM_THREADS": str(given.threads)}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        bench = Bench(given, Path(folder))
        best = best_settings(bench, given.parts.split(","))
        found = take_turns(bench, best)
    lines = [*header(given), f"- load average before the run: {busy:.2f}; other work spoils llama.cpp's numbers most"]
    lines += ["", *table(found, best), ""]
    lines += [f"- {name}: {note}" for name, note in bench.notes.items()]
    lines += agreement(bench.shares)
    lines += [f"- {name}: `{command}`" for name, command in bench.commands.items()]
    print("\n" + "\n".join(lines))
    if given.json:
        whole = {
            "found": found,
            "best": best,
            "commands": bench.commands,
            "notes": bench.notes,
            "header": lines[:5],
        }
        given.json.write_text(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
