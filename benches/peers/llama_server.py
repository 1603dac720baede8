"""llama.cpp's server as a peer: started on a GGUF file, asked for label probabilities, stopped.

Takes token ids, so the peer reads exactly the tokens that this engine reads. Its cache of the policy prefix is warmed
once and copied into every slot through the server's own save and restore. Knows nothing of timing or tables.
Standard library only.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any, Self

START_SECONDS = 900
# Added to the labels' logits: no other token can reach them, and the softmax over the labels stays what it was.
LABEL_BIAS = 100.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LlamaServer:
    """A running llama-server; use it in a `with` block."""

    def __init__(self, binary: Path, gguf: Path, slots: int, slot_tokens: int, threads: int, more: list[str]) -> None:
        self.slots = slots
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="peers-")
        self._connections = local()
        # --swa-full and no checkpoints: each row then costs its own tokens only; with the defaults the last tokens of
        # every prompt are a second, tiny batch. The prompt cache in RAM is for conversations that come back.
        self.command = [
            str(binary), "-m", str(gguf), "-np", str(slots), "-c", str(slots * slot_tokens), "--no-kv-unified",
            "-t", str(threads), "-tb", str(threads), "-b", "2048", "-ub", "512", "--swa-full", "-ctxcp", "0",
            "-cram", "0", "--host", "127.0.0.1", "--port", str(self._port), "--slot-save-path", self._folder.name,
            *more,
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+", prefix="peers-")
        start = time.monotonic()
        self._process = subprocess.Popen(self.command, stdout=self._log, stderr=subprocess.STDOUT)
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() - start > START_SECONDS:
                self._log.seek(0)
                raise SystemExit(f"llama-server did not start:\n{self._log.read()[-3000:]}")
            time.sleep(0.05)
        self.load_seconds = time.monotonic() - start
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def peak_bytes(self) -> int:
        """The server's peak resident memory so far (Linux)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    def _healthy(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request on this thread's own connection."""
        if not hasattr(self._connections, "one"):
            self._connections.one = http.client.HTTPConnection("127.0.0.1", self._port, timeout=3600)
        self._connections.one.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self._connections.one.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"llama-server refused {path}: {answer}")
        return answer

    def warm(self, prefix: list[int]) -> None:
        """The prefix in every slot's cache: computed in the first, copied to the others."""
        body = {"prompt": prefix, "n_predict": 0, "cache_prompt": True, "id_slot": 0}
        self.post("/completion", body)
        self.post("/slots/0?action=save", {"filename": "prefix"})
        for slot in range(1, self.slots):
            self.post(f"/slots/{slot}?action=restore", {"filename": "prefix"})

    def label(self, prompt: list[int], labels: tuple[int, int], slot: int = -1) -> tuple[float, int]:
        """(P(first label) among the two, tokens that were computed for it)."""
        answer = self.post(
            "/completion",
            {
                "prompt": prompt, "n_predict": 1, "cache_prompt": True, "id_slot": slot, "samplers": ["top_k"],
                "top_k": 2, "n_probs": 2, "post_sampling_probs": True,
                "logit_bias": [[label, LABEL_BIAS] for label in labels],
            },
        )  # fmt: skip
        tops = answer["completion_probabilities"][0]["top_probs"]
        shares = {top["id"]: top["prob"] for top in tops}
        return shares.get(labels[0], 0.0), answer["timings"]["prompt_n"]

    def labels(self, prompts: list[list[int]], labels: tuple[int, int]) -> tuple[float, list[float], float]:
        """(seconds for all, P(first label) of each, mean tokens computed per row), with every slot kept busy."""
        with ThreadPoolExecutor(self.slots) as pool:
            start = time.monotonic()
            answers = list(pool.map(lambda prompt: self.label(prompt, labels), prompts))
            seconds = time.monotonic() - start
        computed = sum(tokens for _, tokens in answers) / len(answers)
        return seconds, [share for share, _ in answers], computed

    def log_probabilities(self, prompt: list[int], vocabulary: int) -> dict[int, float]:
        """Token id -> log probability of the next token, over the whole vocabulary."""
        body = {"prompt": prompt, "n_predict": 1, "cache_prompt": False, "n_probs": vocabulary, "temperature": 0}
        answer = self.post("/completion", body)
        return {top["id"]: top["logprob"] for top in answer["completion_probabilities"][0]["top_logprobs"]}
