"""A gpt-oss checkpoint in the released layout, read tensor by tensor.

Takes a folder with config.json and *.safetensors; gives the config and numpy arrays over mapped files, so that a
checkpoint larger than memory can be read. Knows safetensors' file format and nothing of GGUF. Needs numpy only.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

_DTYPES = {"BF16": np.uint16, "F32": np.float32, "U8": np.uint8, "I32": np.int32}


def read_safetensors(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Name -> (dtype as the file says it, mapped array); BF16 comes as its 16 bits."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in _DTYPES:
            raise SystemExit(f"{path.name}: {name} is {dtype}; expected one of {', '.join(_DTYPES)}")
        flat = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length + start, shape=(end - start,))
        tensors[name] = (dtype, flat.view(_DTYPES[dtype]).reshape(shape))
    return tensors


class Checkpoint:
    """All tensors of a model folder by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict = json.loads((folder / "config.json").read_text())
        self._tensors: dict[str, tuple[str, np.ndarray]] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            self._tensors |= read_safetensors(path)
        if not self._tensors:
            raise SystemExit(f"{folder}: no model*.safetensors")

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a packed tensor, unconverted."""
        if name not in self._tensors:
            raise SystemExit(f"{self.folder}: no tensor {name}")
        return self._tensors[name][1]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.raw(name).shape

    def f32(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """A bf16 or f32 tensor, or some of its first dimension, as f32. Exact."""
        part = self.raw(name)[rows]
        if part.dtype == np.uint16:
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32)
