"""Writes llama.cpp's GGUF from a gpt-oss checkpoint in the released layout: the same weights for the peer.

    python benches/peers/to_gguf.py MODEL_DIR OUT.gguf [--dense q8_0|bf16|f32]

Experts keep their MXFP4 values bit for bit: only the order of the nibbles changes, and the interleaved gate_up rows
become two tensors. Attention, embeddings and head become Q8_0, as in the GGUF files that people use (`--dense f32`
serves comparisons of logits). Norms, biases, sinks and the router stay f32. One tensor is in memory at a time.
The vocabulary is copied for show: the benches send token ids, and a folder without tokenizer.json gets placeholders.
Needs numpy and gguf.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from checkpoint import Checkpoint

ROWS_AT_ONCE = 8192
DENSE = {"q8_0": Type.Q8_0, "bf16": Type.BF16, "f32": Type.F32}


class Tensor(NamedTuple):
    """One tensor of the GGUF file: what its header says, and how its bytes are made when their turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: Type
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        values, size = gguf.GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // values * size


def split_nibbles(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Released blocks [.., B, 16] (byte j: elements 2j and 2j+1) and scales [.., B] -> GGUF blocks [.., B * 17]:
    the scale, then 16 bytes of elements j (low nibble) and j + 16 (high)."""
    even, odd = blocks & 0x0F, blocks >> 4
    elements = np.stack([even, odd], axis=-1).reshape(*blocks.shape[:-1], 32)
    packed = elements[..., :16] | (elements[..., 16:] << 4)
    whole = np.concatenate([scales[..., None], packed], axis=-1)
    return whole.reshape(*scales.shape[:-1], -1)


def dense(source: Checkpoint, name: str, target: str, kind: Type) -> Tensor:
    """A bf16 matrix [out, in] as `kind`, converted by runs of rows."""
    shape = source.shape(name)

    def make() -> np.ndarray:
        starts = range(0, shape[0], ROWS_AT_ONCE)
        parts = (source.f32(name, slice(at, at + ROWS_AT_ONCE)) for at in starts)
        return np.concatenate([gguf.quants.quantize(part, kind) for part in parts])

    return Tensor(target, shape, kind, make)


def plain(source: Checkpoint, name: str, target: str, rows: slice = slice(None)) -> Tensor:
    """A small tensor as f32; `rows` picks from the last dimension (gate or up of a bias)."""
    values = source.f32(name)[..., rows]
    return Tensor(target, values.shape, Type.F32, lambda: np.ascontiguousarray(values))


def experts(source: Checkpoint, name: str, target: str, rows: slice = slice(None)) -> Tensor:
    """Packed experts [E, out, B, 16], or every second row of them."""
    count, outputs, blocks = source.raw(f"{name}_scales")[:, rows].shape

    def make() -> np.ndarray:
        nibbles, scales = source.raw(f"{name}_blocks"), source.raw(f"{name}_scales")
        return np.stack([split_nibbles(nibbles[e, rows], scales[e, rows]) for e in range(count)])

    return Tensor(target, (count, outputs, blocks * 32), Type.MXFP4, make)


def layer_tensors(source: Checkpoint, layer: int, kind: Type) -> Iterator[Tensor]:
    """All tensors of one layer under llama.cpp's names."""
    old, new = f"model.layers.{layer}", f"blk.{layer}"
    gate, up = slice(0, None, 2), slice(1, None, 2)
    yield plain(source, f"{old}.input_layernorm.weight", f"{new}.attn_norm.weight")
    yield plain(source, f"{old}.post_attention_layernorm.weight", f"{new}.post_attention_norm.weight")
    yield plain(source, f"{old}.self_attn.sinks", f"{new}.attn_sinks.weight")
    for ours, theirs in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("o_proj", "attn_output")):
        yield dense(source, f"{old}.self_attn.{ours}.weight", f"{new}.{theirs}.weight", kind)
        yield plain(source, f"{old}.self_attn.{ours}.bias", f"{new}.{theirs}.bias")
    yield plain(source, f"{old}.mlp.router.weight", f"{new}.ffn_gate_inp.weight")
    yield plain(source, f"{old}.mlp.router.bias", f"{new}.ffn_gate_inp.bias")
    both = f"{old}.mlp.experts.gate_up_proj"
    for theirs, rows in (("ffn_gate_exps", gate), ("ffn_up_exps", up)):
        yield experts(source, both, f"{new}.{theirs}.weight", rows)
        yield plain(source, f"{both}_bias", f"{new}.{theirs}.bias", rows)
    yield experts(source, f"{old}.mlp.experts.down_proj", f"{new}.ffn_down_exps.weight")
    yield plain(source, f"{old}.mlp.experts.down_proj_bias", f"{new}.ffn_down_exps.bias")


def all_tensors(source: Checkpoint, kind: Type) -> Iterator[Tensor]:
    """The whole model in file order."""
    yield dense(source, "model.embed_tokens.weight", "token_embd.weight", kind)
    for layer in range(source.config["num_hidden_layers"]):
        yield from layer_tensors(source, layer, kind)
    yield plain(source, "model.norm.weight", "output_norm.weight")
    yield dense(source, "lm_head.weight", "output.weight", kind)


def refuse_other_models(config: dict) -> None:
    """llama.cpp's gpt-oss graph has these as constants, so another value would silently be another model."""
    alternating = [("sliding", "full")[i % 2] + "_attention" for i in range(config["num_hidden_layers"])]
    for key, wanted in (("model_type", "gpt_oss"), ("layer_types", alternating), ("swiglu_limit", 7.0)):
        if config.get(key) != wanted:
            raise SystemExit(f"config.json: {key} is {config.get(key)}; llama.cpp's gpt-oss has {wanted}")


def write_hyperparameters(out: gguf.GGUFWriter, config: dict) -> None:
    """The gpt-oss.* keys."""
    rope = config.get("rope_scaling") or config["rope_parameters"]
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_expert_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_key_length(config["head_dim"])
    out.add_value_length(config["head_dim"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_expert_count(config["num_local_experts"])
    out.add_expert_used_count(config["num_experts_per_tok"])
    out.add_sliding_window(config["sliding_window"])
    out.add_rope_freq_base(float(config.get("rope_theta") or rope["rope_theta"]))
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(rope["factor"])
    out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    out.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    out.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_vocabulary(out: gguf.GGUFWriter, folder: Path, config: dict) -> None:
    """tokenizer.json's tokens, or placeholders; llama.cpp refuses a file without any."""
    tokens = [f"[{i}]" for i in range(config["vocab_size"])]
    kinds = [gguf.TokenType.UNUSED] * len(tokens)
    merges, cut = ["[ 0"], "gpt-4o"
    path = folder / "tokenizer.json"
    if path.exists():
        tokenizer = json.loads(path.read_text())
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        if tokenizer["model"].get("ignore_merges"):
            # llama.cpp's name for the same way to cut words where a whole word of the vocabulary is not cut further.
            cut = "granite-embed-multi-97m"
        for token, at in tokenizer["model"]["vocab"].items():
            tokens[at], kinds[at] = token, gguf.TokenType.NORMAL
        for added in tokenizer["added_tokens"]:
            tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(cut)
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges(merges)
    end = config.get("eos_token_id")
    if end is not None:
        out.add_eos_token_id(end[0] if isinstance(end, list) else end)


def convert(folder: Path, target: Path, kind: Type) -> int:
    """Writes `target`; gives its number of tensors."""
    source = Checkpoint(folder)
    refuse_other_models(source.config)
    out = gguf.GGUFWriter(target, "gpt-oss")
    out.add_name(folder.resolve().name)
    write_hyperparameters(out, source.config)
    write_vocabulary(out, folder, source.config)
    tensors = list(all_tensors(source, kind))
    for tensor in tensors:
        # The writer wants to know only the dtype of values that are not quantised; the shape is that of the values.
        out.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    for tensor in tensors:
        out.write_tensor_data(tensor.make())
    out.close()
    return len(tensors)


def main() -> None:
    """The command line."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("model", type=Path, help="folder with config.json and model*.safetensors")
    words.add_argument("out", type=Path, help="GGUF file to write")
    words.add_argument("--dense", choices=DENSE, default="q8_0", help="attention, embeddings and head")
    given = words.parse_args()
    count = convert(given.model, given.out, DENSE[given.dense])
    print(f"{given.out}: {count} tensors, {given.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
