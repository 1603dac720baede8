"""Label-only rows per second through transformers, on the CPU; prints one JSON object.

    python hf_rows.py --model DIR --rows FILE --threads 2 --dtype bfloat16 --batches 1,8,32

FILE is what run.py writes: {"prefix": [ids], "rows": [[ids], ..], "labels": [a, b]}. The prefix is computed once and its
cache repeated over each batch, and only the last position goes through the head: what a careful user would write.
Experts are dequantised, as transformers has no MXFP4 on a CPU. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, Mxfp4Config


def run(model: Any, cache: Any, rows: torch.Tensor, labels: list[int], batch: int) -> tuple[float, list[float]]:
    """(seconds, P(first label) of each row) in batches of `batch`; all rows have one length."""
    shares: list[float] = []
    start = time.monotonic()
    for part in rows.split(batch):
        own = copy.deepcopy(cache)
        own.batch_repeat_interleave(part.shape[0])
        logits = model(part, past_key_values=own, logits_to_keep=1).logits[:, -1, labels]
        shares += logits.float().softmax(-1)[:, 0].tolist()
    return time.monotonic() - start, shares


def main() -> None:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", type=Path, required=True)
    words.add_argument("--rows", type=Path, required=True)
    words.add_argument("--threads", type=int, default=2)
    words.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    words.add_argument("--batches", default="1,8,32")
    given = words.parse_args()
    torch.set_num_threads(given.threads)
    task = json.loads(given.rows.read_text())
    start = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(
        given.model,
        quantization_config=Mxfp4Config(dequantize=True),
        attn_implementation="eager",
        dtype=torch.bfloat16,
    ).to(getattr(torch, given.dtype))
    load_s = time.monotonic() - start
    rows = torch.tensor(task["rows"])
    best: tuple[float, int, list[float]] = (0.0, 0, [])
    with torch.inference_mode():
        cache = model(torch.tensor([task["prefix"]]), use_cache=True, logits_to_keep=1).past_key_values
        run(model, cache, rows[:2], task["labels"], 1)
        for batch in (int(word) for word in given.batches.split(",")):
            seconds, shares = run(model, cache, rows, task["labels"], batch)
            best = max(best, (len(shares) / seconds, batch, shares))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"rows_per_s": best[0], "batch": best[1], "p": best[2], "load_s": load_s} | versions))


if __name__ == "__main__":
    main()
