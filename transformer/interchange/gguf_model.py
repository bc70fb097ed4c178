"""Architectures in GGUF: metadata as a `config.json`, and tables of tensors.

Names and layouts are those of llama.cpp (convert_hf_to_gguf.py): rows of queries and
keys of Llama interleave the two halves of a head, which rotate together; GPT-2's
matrices are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.gguf_file import GgufHeader, GgufTensor
from transformer.interchange.table import Rule, Table
from transformer.network import positions

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
EMBEDDING, READOUT, FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
HARMLESS_PREFIXES = ("general.", "tokenizer.", "quantize.", "split.")
HARMLESS = ("tensor_data_layout",)
# (factor, length) of Llama 3.1 and 3.2; a file has the factors of each frequency only.
LLAMA3_SCALES = ((8.0, 8192), (32.0, 8192))


def _shortest(value: float) -> float:
    """The number of fewest digits that a float32 stands for: 1e-5, not 9.99999975e-6,
    which is the same in float32."""
    return float(str(np.float32(value)))


def config_of(header: GgufHeader, file: Path) -> dict[str, Any]:
    """The keys of `config.json` that metadata and tensors say. ValueError, in one line,
    for a key that is not understood, or a value that the net does not express."""
    name = header.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{file}: general.architecture: expected one of "
            f"{', '.join(ARCHITECTURES)}, got {str(name)[:60]!r}"
        )
    kept = {
        key: value
        for key, value in header.metadata.items()
        if not key.startswith(HARMLESS_PREFIXES)
    }
    if "split.count" in header.metadata and header.metadata["split.count"] != 1:
        raise ValueError(
            f"{file}: expected one file, got one of {header.metadata['split.count']}; "
            "join them: llama-gguf-split --merge"
        )
    reader = Reader(kept, str(file))
    rows = _vocab_size(header.tensors, file)
    reader.only(f"{name}.vocab_size", rows)
    made = _gpt2(reader) if name == "gpt2" else _llama(reader, name, header, file)
    reader.finish(HARMLESS)
    tokens = _token_ids(Reader(header.metadata, str(file)), rows)
    tied = _is_tied(header.tensors)
    common = {"model_type": name, "vocab_size": rows, "tie_word_embeddings": tied}
    return {**common, **made, **tokens}


def _vocab_size(tensors: Mapping[str, GgufTensor], file: Path) -> int:
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise ValueError(f"{file}: expected a matrix {EMBEDDING}, got none")
    return tensors[EMBEDDING].shape[0]


def _is_tied(tensors: Mapping[str, GgufTensor]) -> bool:
    """Whether there is no other readout than the embedding, or an equal one."""
    readout, embedding = tensors.get(READOUT), tensors[EMBEDDING]
    if readout is None:
        return True
    if readout.code != embedding.code or readout.shape != embedding.shape:
        return False
    return bool(np.array_equal(readout.read_bytes(), embedding.read_bytes()))


def _token_ids(reader: Reader, rows: int) -> dict[str, Any]:
    """The ids of the metadata; several end ids where it has several."""
    found = {}
    for ours, theirs in (("bos", "bos"), ("pad", "padding")):
        found[f"{ours}_token_id"] = _token_id(reader, theirs, rows)
    ends = [_token_id(reader, name, rows) for name in ("eos", "eot", "eom")]
    unique = list(dict.fromkeys(end for end in ends if end is not None))
    found["eos_token_id"] = unique if len(unique) > 1 else (unique or [None])[0]
    return found


def _token_id(reader: Reader, name: str, rows: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if reader.get(key, None) is None:
        return None
    if reader.whole(key, least=0) >= rows:
        raise reader.error(key, f"a token below {rows}")
    return reader.whole(key, least=0)


def _gpt2(reader: Reader) -> dict[str, Any]:
    return {
        "n_positions": reader.whole("gpt2.context_length"),
        "n_embd": reader.whole("gpt2.embedding_length"),
        "n_layer": reader.whole("gpt2.block_count"),
        "n_inner": reader.whole("gpt2.feed_forward_length"),
        "n_head": reader.whole("gpt2.attention.head_count"),
        "layer_norm_epsilon": _shortest(
            reader.number("gpt2.attention.layer_norm_epsilon")
        ),
    }


def _llama(reader: Reader, name: str, header: GgufHeader, file: Path) -> dict[str, Any]:
    width = reader.whole(f"{name}.embedding_length")
    heads = reader.whole(f"{name}.attention.head_count")
    head = reader.whole(f"{name}.attention.key_length", width // heads)
    reader.only(f"{name}.attention.value_length", head)
    reader.only(f"{name}.rope.dimension_count", head)
    reader.only(f"{name}.expert_count", 0)
    reader.only(f"{name}.expert_used_count", 0)
    theta = _shortest(reader.number(f"{name}.rope.freq_base", 10_000.0))
    return {
        "hidden_size": width,
        "num_hidden_layers": reader.whole(f"{name}.block_count"),
        "intermediate_size": reader.whole(f"{name}.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.whole(f"{name}.attention.head_count_kv", heads),
        "max_position_embeddings": reader.whole(f"{name}.context_length"),
        "rms_norm_eps": _shortest(
            reader.number(f"{name}.attention.layer_norm_rms_epsilon")
        ),
        "rope_parameters": read_rope(reader, name, header, file, theta),
        "head_dim": head,
    }


def read_rope(
    reader: Reader, name: str, header: GgufHeader, file: Path, theta: float
) -> dict[str, Any]:
    """The `rope_parameters` of a file. ValueError for factors of frequencies that are
    not those of a Llama."""
    prefix = f"{name}.rope.scaling."
    kinds = {"none": "default", "linear": "linear"}
    kind = reader.choice(prefix + "type", kinds, "none")
    made: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    if kind == "linear":
        made["factor"] = _shortest(reader.positive(prefix + "factor"))
    if FACTORS not in header.tensors:
        return made
    if kind != "default":
        raise reader.error(prefix + "type", f"none beside {FACTORS}")
    factors = header.tensors[FACTORS].read().astype(np.float32)
    half = 1 / theta ** (np.arange(len(factors)) / len(factors))
    for factor, length in LLAMA3_SCALES:
        values = {"factor": factor, "low": 1.0, "high": 4.0, "length": length}
        scaled = np.asarray(positions.llama3_scale(**values)(jnp.asarray(half)))
        if np.allclose(half / scaled, factors, rtol=1e-5):
            return made | {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": length,
            }
    raise ValueError(
        f"{file}: {FACTORS}: expected the factors of Llama 3.1 or 3.2, got others"
    )


LAYER, BLOCK = "blk.{N}.", "stack/layers_{N}/"
ATTEND = BLOCK + "attention/"
ENDS = (
    Rule(EMBEDDING, "embedding_VD", "V D"),
    Rule("output_norm.weight", "final_norm/gain_D", "D"),
)
VALUES = (
    Rule(LAYER + "attn_v.weight", ATTEND + "w_v_DGK", "(G K) D"),
    Rule(LAYER + "attn_output.weight", ATTEND + "w_o_HKD", "D (H K)"),
)
GATED = (
    Rule(LAYER + "ffn_gate.weight", BLOCK + "mlp/w_gate_DF", "F D"),
    Rule(LAYER + "ffn_up.weight", BLOCK + "mlp/w_in_DF", "F D"),
    Rule(LAYER + "ffn_down.weight", BLOCK + "mlp/w_out_FD", "D F"),
)
NORMS = (
    Rule(LAYER + "attn_norm.weight", BLOCK + "attention_norm/gain_D", "D"),
    Rule(LAYER + "ffn_norm.weight", BLOCK + "mlp_norm/gain_D", "D"),
)
COMMON = (*ENDS, *VALUES, *GATED, *NORMS)
# p: the halves of a head's features.
INTERLEAVED = (
    Rule(LAYER + "attn_q.weight", ATTEND + "w_q_DHK", "(H j p) D", "D H (p j)"),
    Rule(LAYER + "attn_k.weight", ATTEND + "w_k_DGK", "(G j p) D", "D G (p j)"),
)
PLAIN = (
    Rule(LAYER + "attn_q.weight", ATTEND + "w_q_DHK", "(H K) D"),
    Rule(LAYER + "attn_k.weight", ATTEND + "w_k_DGK", "(G K) D"),
)
BIASES = (
    Rule(LAYER + "attn_q.bias", ATTEND + "b_q_HK", "(H K)"),
    Rule(LAYER + "attn_k.bias", ATTEND + "b_k_GK", "(G K)"),
    Rule(LAYER + "attn_v.bias", ATTEND + "b_v_GK", "(G K)"),
)
HEAD_NORMS = (
    Rule(LAYER + "attn_q_norm.weight", ATTEND + "q_norm/gain_K", "K"),
    Rule(LAYER + "attn_k_norm.weight", ATTEND + "k_norm/gain_K", "K"),
)
GPT2 = (
    Rule(EMBEDDING, "embedding_VD", "V D"),
    Rule("position_embd.weight", "position/position_LD", "L D"),
    *decoders.affine("output_norm", "final_norm"),
    *decoders.affine(LAYER + "attn_norm", BLOCK + "attention_norm"),
    *decoders.affine(LAYER + "ffn_norm", BLOCK + "mlp_norm"),
    Rule(
        LAYER + "attn_qkv.weight",
        (ATTEND + "w_q_DHK", ATTEND + "w_k_DGK", ATTEND + "w_v_DGK"),
        "(H K + G K + G K) D",
    ),
    Rule(
        LAYER + "attn_qkv.bias",
        (ATTEND + "b_q_HK", ATTEND + "b_k_GK", ATTEND + "b_v_GK"),
        "(H K + G K + G K)",
    ),
    Rule(LAYER + "attn_output.weight", ATTEND + "w_o_HKD", "D (H K)"),
    Rule(LAYER + "attn_output.bias", ATTEND + "b_o_D", "D"),
    Rule(LAYER + "ffn_up.weight", BLOCK + "mlp/w_in_DF", "F D"),
    Rule(LAYER + "ffn_up.bias", BLOCK + "mlp/b_in_F", "F"),
    Rule(LAYER + "ffn_down.weight", BLOCK + "mlp/w_out_FD", "D F"),
    Rule(LAYER + "ffn_down.bias", BLOCK + "mlp/b_out_D", "D"),
)
TABLES = {
    "llama": (*COMMON, *INTERLEAVED),
    "qwen2": (*COMMON, *PLAIN, *BIASES),
    "qwen3": (*COMMON, *PLAIN, *HEAD_NORMS),
    "gpt2": GPT2,
}


def table(kind: Architecture, sizes: Any) -> Table:
    """The tensors of a file of an architecture. ValueError for one without a table."""
    name = kind.write(sizes)["model_type"]
    if name not in TABLES:
        raise ValueError(
            f"GGUF: expected one of {', '.join(TABLES)}, got {name}, whose tensors are "
            "not known there"
        )
    made = decoders.table(
        TABLES[name],
        sizes.tied,
        embedding=EMBEDDING,
        readout=READOUT,
        ignored={FACTORS.replace(".", r"\."): "compared with the configuration"},
    )
    return made._replace(sizes={"p": 2})
