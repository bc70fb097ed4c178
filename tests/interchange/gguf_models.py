"""GGUF files of the fixtures, written by the `gguf` package in the layouts of llama.cpp
(convert_hf_to_gguf.py), whose steps are written here a second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

from transformer.data.text import tokenizers

FIXTURES = Path(__file__).parent / "fixtures"
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
}
ENDS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
TRANSPOSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")


def name_of(theirs: str) -> str:
    module, kind = theirs.rsplit(".", 1)
    if module in ENDS:
        return f"{ENDS[module]}.{kind}"
    _, _, number, inner = module.split(".", 3)
    return f"blk.{number}.{LAYER[inner]}.{kind}"


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """`permute` of convert_hf_to_gguf.py."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors_of(name: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for theirs, value in safetensors.numpy.load_file(
        FIXTURES / name / "model.safetensors"
    ).items():
        ours = name_of(theirs)
        if config["model_type"] == "llama" and ".attn_q." in ours:
            value = interleave(value, config["num_attention_heads"])
        if config["model_type"] == "llama" and ".attn_k." in ours:
            value = interleave(value, config["num_key_value_heads"])
        is_matrix = config["model_type"] == "gpt2" and value.ndim == 2
        if is_matrix and any(f".{part}." in ours for part in TRANSPOSED):
            value = value.T
        found[ours] = np.ascontiguousarray(value)
    return found


def _sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if config["model_type"] == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def llama3_factors(rope: dict[str, Any], head: int) -> np.ndarray:
    """`rope_freqs` of convert_hf_to_gguf.py, one frequency after another."""
    found = []
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    for i in range(0, head, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head)
        if wave < high:
            found.append(1.0)
        elif wave > low:
            found.append(rope["factor"])
        else:
            ends = rope["high_freq_factor"] - rope["low_freq_factor"]
            length = rope["original_max_position_embeddings"]
            smooth = (length / wave - rope["low_freq_factor"]) / ends
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def write(path: Path, name: str, **tokenizer: Any) -> Path:
    """A GGUF file of the fixture `name`. tokenizer: keys of `tokenizer.ggml`."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    writer = gguf.GGUFWriter(path, config["model_type"])
    _sizes(writer, config)
    for key, value in tokenizer.items():
        full = f"tokenizer.{'ggml.' if key != 'chat_template' else ''}{key}"
        if isinstance(value, list):
            writer.add_array(full, value)
        else:
            kinds = {bool: writer.add_bool, int: writer.add_uint32}
            kinds.get(type(value), writer.add_string)(full, value)
    for one, value in tensors_of(name, config).items():
        writer.add_tensor(one, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level() -> dict[str, Any]:
    """The metadata of a small byte-level tokenizer, of the fixtures' 67 tokens."""
    letters = sorted(set(tokenizers.byte_letters()) - set("the12\u0120"))
    tokens = ["\u0120", *"the12", *letters[:58], "th", "<|a|>", "<|b|>"]
    return {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [1] * 65 + [3, 3],
        "merges": ["t h"],
        "eos_token_id": 65,
        "eot_token_id": 66,
        "bos_token_id": 65,
        "chat_template": "{{ messages[0].content }}",
    }
