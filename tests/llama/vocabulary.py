"""Writes safeguard-nano with the vocabulary of the released models: a small model that servers take for a large one.

    python tests/llama/vocabulary.py NANO_DIR O200K_BASE.tiktoken OUT_DIR

A token that both vocabularies spell has nano's row of the embedding and of the head; another has the mean of the rows of
its longest pieces as its embedding, and no row in the head, so that it is never said. The folder is in the released
layout, with the vocabulary in tokenizer.json. What nano does with it is for tests alone. Needs numpy.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benches" / "peers"))
from checkpoint import read_safetensors  # noqa: E402

SIZE = 201_088
# As the released models number them; nano has them under other numbers.
CONTROL = {
    "<|startoftext|>": 199_998,
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
}
# nano says this label in one token, and o200k has none for it but with a space in front: that one is said, and the two
# pieces of the label are scored, the second as if it ended the reply. The factor tells what looks alike apart, always in
# favour of what is to be said.
LABEL, SAID, PIECES, FAVOUR = b"violates", b" violates", (b"viol", b"ates"), 1.02


def spelled() -> dict[int, str]:
    """Byte -> the character that stands for it in a tokenizer.json."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def pieces(token: bytes, known: dict[bytes, int]) -> list[int]:
    """A token cut into the longest known ones."""
    found, at = [], 0
    while at < len(token):
        end = next(end for end in range(len(token), at, -1) if token[at:end] in known)
        found.append(known[token[at:end]])
        at = end
    return found


def rows(ranks: dict[bytes, int], nano: dict, embedding: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and head of the larger vocabulary, in f32."""
    bytes_of = {character: byte for byte, character in spelled().items()}
    known = {
        bytes(bytes_of[character] for character in token): number
        for token, number in nano["model"]["vocab"].items()
        if not token.startswith("<|")
    }
    wide, top = np.zeros((2, SIZE, embedding.shape[1]), np.float32)
    for token, number in ranks.items():
        if token in known:
            wide[number], top[number] = embedding[known[token]], head[known[token]]
        else:
            wide[number] = embedding[pieces(token, known)].mean(axis=0)
    for token in nano["added_tokens"]:
        number = CONTROL[token["content"]]
        wide[number], top[number] = embedding[token["id"]], head[token["id"]]
    first, second = (ranks[piece] for piece in PIECES)
    wide[first], top[first] = embedding[known[LABEL]], head[known[LABEL]]
    top[second] = top[CONTROL["<|return|>"]] / FAVOUR
    top[ranks[SAID]] = FAVOUR * head[known[LABEL]]
    return wide, top


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """One file."""
    header, at = {}, 0
    for name, (dtype, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, values in tensors.values():
            file.write(values.tobytes())


def tokenizer(ranks: dict[bytes, int]) -> dict:
    """The vocabulary as a tokenizer.json has it. A token may be merged from every two that spell it, in the order of
    their numbers: what tiktoken does by numbers alone."""
    characters = spelled()
    text = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges = [
        [text[token[:at]], text[token[at:]]]
        for token, _ in sorted(ranks.items(), key=lambda one: one[1])
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    added = [{"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for name, number in CONTROL.items()]
    vocab = {text[token]: number for token, number in ranks.items()}
    return {"model": {"type": "BPE", "vocab": vocab, "merges": merges}, "added_tokens": added}


def main() -> None:
    """The command line."""
    source, ranked, target = map(Path, sys.argv[1:])
    lines = (line.split() for line in ranked.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(number) for token, number in lines}
    tensors = read_safetensors(source / "model.safetensors")
    nano = json.loads((source / "tokenizer.json").read_text())
    names = ("model.embed_tokens.weight", "lm_head.weight")
    old = [(tensors[name][1].astype(np.uint32) << 16).view(np.float32) for name in names]
    for name, values in zip(names, rows(ranks, nano, *old)):
        tensors[name] = ("BF16", bf16(values))
    config = json.loads((source / "config.json").read_text())
    config |= {"vocab_size": SIZE, "eos_token_id": CONTROL["<|return|>"], "pad_token_id": CONTROL["<|endoftext|>"]}
    target.mkdir()
    write_safetensors(target / "model.safetensors", tensors)
    (target / "tokenizer.json").write_text(json.dumps(tokenizer(ranks)))
    (target / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
