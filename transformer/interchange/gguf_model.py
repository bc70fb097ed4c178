"""Architectures in GGUF: metadata as a `config.json`, and tables of tensors.

Names and layouts are those of llama.cpp (convert_hf_to_gguf.py): rows of queries and
keys of Llama interleave the two halves of a head, which rotate together; GPT-2's
matrices are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer.interchange import rope as rope_
from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.gguf_file import GgufHeader, GgufTensor
from transformer.interchange.table import Rule, Table
from transformer.network import rope_scales

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
EMBEDDING, READOUT, FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
# Whole numbers, and the epsilon, of a `config.json`, by their keys in a file.
GPT2_SIZES = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
}
LLAMA_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
GPT2_EPSILON = ("attention.layer_norm_epsilon", "layer_norm_epsilon")
LLAMA_EPSILON = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
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


def _sizes(
    reader: Reader, name: str, keys: Mapping[str, str], epsilon: tuple[str, str]
) -> dict[str, Any]:
    theirs, ours = epsilon
    found = {one: reader.whole(f"{name}.{key}") for key, one in keys.items()}
    return found | {ours: _shortest(reader.number(f"{name}.{theirs}"))}


def _gpt2(reader: Reader) -> dict[str, Any]:
    return _sizes(reader, "gpt2", GPT2_SIZES, GPT2_EPSILON)


def _llama(reader: Reader, name: str, header: GgufHeader, file: Path) -> dict[str, Any]:
    sizes = _sizes(reader, name, LLAMA_SIZES, LLAMA_EPSILON)
    heads = sizes["num_attention_heads"]
    width_of_head = sizes["hidden_size"] // heads
    head = reader.whole(f"{name}.attention.key_length", width_of_head)
    reader.only(f"{name}.attention.value_length", head)
    reader.only(f"{name}.rope.dimension_count", head)
    reader.only(f"{name}.expert_count", 0)
    reader.only(f"{name}.expert_used_count", 0)
    theta = _shortest(reader.number(f"{name}.rope.freq_base", 10_000.0))
    return {
        **sizes,
        "num_key_value_heads": reader.whole(f"{name}.attention.head_count_kv", heads),
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
    for factor, length in LLAMA3_SCALES:
        rope = made | {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": length,
        }
        if np.allclose(rope_factors(rope, len(factors)), factors, rtol=1e-5):
            return rope
    raise ValueError(
        f"{file}: {FACTORS}: expected the factors of Llama 3.1 or 3.2, got others"
    )


def rope_factors(rope: Mapping[str, Any], half: int) -> np.ndarray:
    """By how much Llama 3's `rope_parameters` slow each of `half` frequencies."""
    values: Any = {ours: rope[theirs] for ours, theirs in rope_.LLAMA3.items()}
    plain = 1 / rope["rope_theta"] ** (np.arange(half) / half)
    scaled = rope_scales.llama3_scale(**values)(jnp.asarray(plain))
    return (plain / np.asarray(scaled)).astype(np.float32)


class ModelMetadata(NamedTuple):
    """What a file says of a net: values by key, and tensors that are no parameters."""

    values: dict[str, Any]
    tensors: dict[str, np.ndarray]


def metadata_of(kind: Architecture, sizes: Any) -> ModelMetadata:
    """The inverse of `config_of`. ValueError, which names it, for a size that is not
    read back."""
    config = kind.write(sizes)
    name = table_name(config)
    keys, epsilon = LLAMA_SIZES, LLAMA_EPSILON
    if name == "gpt2":
        keys, epsilon = GPT2_SIZES, GPT2_EPSILON
    values = {f"{name}.{theirs}": config[ours] for theirs, ours in keys.items()}
    values[f"{name}.{epsilon[0]}"] = float(config[epsilon[1]])
    values |= {"general.architecture": name, f"{name}.vocab_size": sizes.vocab_size}
    tensors: dict[str, np.ndarray] = {}
    if name != "gpt2":
        head, rope = config["head_dim"], config["rope_parameters"]
        values |= {
            f"{name}.attention.head_count_kv": config["num_key_value_heads"],
            f"{name}.attention.key_length": head,
            f"{name}.attention.value_length": head,
            f"{name}.rope.dimension_count": sizes.rotated,
            f"{name}.rope.freq_base": float(rope["rope_theta"]),
        }
        if rope["rope_type"] == "linear":
            values[f"{name}.rope.scaling.type"] = "linear"
            values[f"{name}.rope.scaling.factor"] = float(rope["factor"])
        if rope["rope_type"] == "llama3":
            tensors[FACTORS] = rope_factors(rope, head // 2)
    made = ModelMetadata(values, tensors)
    _check_read_back(kind, sizes, made)
    return made


class _ArrayTensor(NamedTuple):
    """As `GgufTensor`, before it is written."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    code = 0

    def read(self) -> np.ndarray:
        return self.values


def _check_read_back(kind: Architecture, sizes: Any, metadata: ModelMetadata) -> None:
    # Of the embedding and the readout only the shapes are read, unless they are equal.
    arrays = {**metadata.tensors, EMBEDDING: np.empty((sizes.vocab_size, 0))}
    arrays |= {} if sizes.tied else {READOUT: np.empty((0, 0))}
    tensors: Any = {name: _ArrayTensor(array) for name, array in arrays.items()}
    header = GgufHeader(metadata.values, tensors)
    where = Path("gguf")
    again = kind.read(Reader(config_of(header, where), "gguf"))
    for field, ours, theirs in zip(sizes._fields, sizes, again, strict=True):
        if field != "scanned" and not _is_read_as(ours, theirs):
            raise ValueError(
                f"gguf: {field}: expected {theirs}, which is all that the format says, "
                f"got {ours}"
            )


def _is_read_as(ours: Any, theirs: Any) -> bool:
    """Whether two values are the same net: floats to the bit of a float32, activations
    by what they compute."""
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return all(map(_is_read_as, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return np.float32(ours) == np.float32(theirs)
    known = decoders.ACTIVATIONS
    if isinstance(ours, str) and ours in known and theirs in known:
        return known[ours] is known[theirs]
    return ours == theirs


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


def table_name(config: Mapping[str, Any]) -> str:
    """The architecture of a configuration. ValueError for one without a table."""
    name = config.get("model_type", config.get("_class_name"))
    if name not in TABLES:
        raise ValueError(
            f"gguf: expected one of {', '.join(TABLES)}, got {name}, whose tensors are "
            "not known there"
        )
    return name


def table(kind: Architecture, sizes: Any) -> Table:
    """The tensors of a file of an architecture. ValueError for one without a table."""
    made = decoders.table(
        TABLES[table_name(kind.write(sizes))],
        sizes.tied,
        embedding=EMBEDDING,
        readout=READOUT,
        ignored={FACTORS.replace(".", r"\."): "compared with the configuration"},
    )
    return made._replace(sizes={"p": 2})
