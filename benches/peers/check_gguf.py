"""Does llama.cpp compute the same model from the GGUF? Compares next-token probabilities with stored f32 logits.

    python benches/peers/check_gguf.py --gguf FILE --llama-bin DIR --golden src/backend/nano/golden.safetensors

The golden file holds promptN.input_ids and promptN.logits of the last position, from transformers in f32. llama.cpp is
no logits oracle: it rounds YaRN's bounds, rounds activations to int8 before each quantised product and caches keys
and values as f16. So this prints how close it is and fails only where the next token differs on a clear lead.
Needs numpy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from checkpoint import read_safetensors
from llama_server import LlamaServer

CLEAR_LEAD = 0.5


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension, in f64."""
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def main() -> None:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--gguf", type=Path, required=True)
    words.add_argument("--llama-bin", type=Path, required=True, help="folder with llama-server")
    words.add_argument("--golden", type=Path, required=True)
    words.add_argument("--llama-args", default="", help="more words for llama-server")
    given = words.parse_args()
    golden = read_safetensors(given.golden)
    prompts = sorted(name.split(".")[0] for name in golden if name.endswith(".input_ids"))
    longest = max(golden[f"{prompt}.input_ids"][1].size for prompt in prompts)
    worst = 0
    print("prompt    tokens  same next token  lead    KL        max|d logp| over p > 1e-4")
    server = LlamaServer(given.llama_bin / "llama-server", given.gguf, 1, longest + 64, 2, given.llama_args.split())
    with server:
        for prompt in prompts:
            ids = golden[f"{prompt}.input_ids"][1]
            wanted = log_softmax(golden[f"{prompt}.logits"][1])
            found = server.log_probabilities(ids.tolist(), wanted.size)
            theirs = np.array([found.get(token, -np.inf) for token in range(wanted.size)])
            likely = wanted > np.log(1e-4)
            off = np.abs(theirs - wanted)[likely].max()
            seen = np.isfinite(theirs)
            kl = float((np.exp(wanted) * (wanted - theirs))[seen].sum())
            first, second = np.sort(wanted)[-1], np.sort(wanted)[-2]
            same = int(theirs.argmax()) == int(wanted.argmax())
            worst += not same and first - second > CLEAR_LEAD
            print(f"{prompt:8}  {ids.size:6}  {same!s:15}  {first - second:6.3f}  {kl:8.2e}  {off:.4f}")
    if worst:
        raise SystemExit(f"{worst} prompts have another next token")


if __name__ == "__main__":
    main()
