"""Runs llama.cpp's server, as the package xllamacpp has it, until standard input ends.

    python tests/llama/serve.py FILE.gguf NAME [--special] [--template FILE]

The system chooses the port; the first line of standard output is the address. One thread for each step, as several
servers of one test share a machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import xllamacpp

SLOTS, SLOT_TOKENS = 8, 4096


def main() -> None:
    """The command line."""
    words = argparse.ArgumentParser()
    words.add_argument("gguf", type=Path)
    words.add_argument("name")
    words.add_argument("--special", action="store_true")
    words.add_argument("--template", type=Path)
    given = words.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(given.gguf)
    params.model_alias = {given.name}
    params.port = 0
    params.special = given.special
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * SLOT_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if given.template:
        params.chat_template = given.template.read_text()
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
