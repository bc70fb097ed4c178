"""Llama and the decoders that differ from it by a few values: Mistral (a window), Qwen
2 (biases of queries, keys and values), Qwen 3 (QK-norm), OLMo 2 (norms of each output,
and of all heads together), Phi 3 (joined tensors), SmolLM.

Touvron et al. 2023, arXiv 2302.13971; Jiang et al. 2023, arXiv 2310.06825; Yang et al.
2024, arXiv 2407.10671 and 2025, arXiv 2505.09388; OLMo team 2025, arXiv 2501.00656;
Abdin et al. 2024, arXiv 2404.14219.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange import rope as rope_
from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_partial_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, mlp, norms
from transformer.network.block import output_norm, pre_norm

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
# Where a configuration has none.
EPSILONS = {"olmo2": 1e-5, "phi3": 1e-5}
LENGTHS = {"mistral": 131072, "qwen2": 32768, "qwen3": 32768, "phi3": 4096}
# Ropes that transformers has for it; for others all that are expressed here.
KINDS = {"phi3": ("default", "longrope")}
# Of Phi 4 mini, at what changes nothing.
PHI4 = {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False}
QKV_BIAS = biases.zero_init_bias_of("b_q_HK", "b_k_GK", "b_v_GK")
ATTENTION_BIAS = biases.zero_init_bias_of("b_q_HK", "b_k_GK", "b_v_GK", "b_o_D")
# Of which transformers reads `attention_bias`.
BIASED = ("llama", "qwen3", "olmo2")


class Sizes(NamedTuple):
    """What a configuration says of the net. rotated: features of a head that turn.
    window: keys that a token sees, itself included, or None. scanned: layers that
    repeat are one scan (`stack.ScannedStack`). biased: all maps of attention."""

    model_type: str
    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    rotated: int
    length: int
    epsilon: float
    activation: str
    rope: Rope
    tied: bool
    window: int | None
    scanned: bool = False
    biased: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if kind not in BIASED:
        config.only("attention_bias", False)
    config.only("mlp_bias", False)
    config.only("pretraining_tp", 1)
    depth = config.whole("num_hidden_layers")
    length = config.whole("max_position_embeddings", LENGTHS.get(kind, 2048))
    window = _read_window(config, kind)
    layer = "full_attention" if window is None else "sliding_attention"
    config.only("layer_types", [layer] * depth)
    # Of the first Llama.
    config.only("max_sequence_length", length)
    head = config.whole("head_dim", 128 if kind == "qwen3" else width // heads)
    kinds = KINDS.get(kind, (*rope_.KINDS, *rope_.LIMITED))
    rope, share = read_partial_rope(config, kinds=kinds, length=length)
    if rope.kind != "longrope":
        config.only(rope_.LENGTH, length)
    elif kind == "phi3":  # There transformers would take 4096.
        config.whole(rope_.LENGTH)
    share = config.number("partial_rotary_factor", 1.0 if share is None else share)
    rotated = int(head * share)
    for factors in (rope.short, rope.long):
        if factors and len(factors) != rotated // 2:
            raise ValueError(
                f"{config.where}: factors of longrope: expected {rotated // 2}, one "
                f"for each pair of features, got {len(factors)}"
            )
    if kind == "phi3":
        for key, value in PHI4.items():
            config.only(key, value)
    return Sizes(
        model_type=kind,
        vocab_size=config.whole("vocab_size"),
        width=width,
        hidden_features=config.whole("intermediate_size"),
        depth=depth,
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", heads),
        head_features=head,
        rotated=rotated,
        length=rope.limit or length,
        epsilon=config.positive("rms_norm_eps", EPSILONS.get(kind, 1e-6)),
        activation=decoders.read_activation(config, "hidden_act", "silu"),
        rope=rope,
        tied=config.flag("tie_word_embeddings", False),
        window=window,
        biased=kind in BIASED and config.flag("attention_bias", False),
    )


def _read_window(config: Reader, kind: str) -> int | None:
    """The window of Mistral and Phi 3. Qwen's is off unless `use_sliding_window`, and
    then of some layers only, which is refused."""
    if kind.startswith("qwen"):
        config.only("use_sliding_window", False)
        config.get("sliding_window", 0)
        config.get("max_window_layers", 0)
        return None
    if kind in ("mistral", "phi3"):
        # Null is none; an absent key is the default of Mistral.
        is_absent = "sliding_window" not in config.values
        default = 4096 if kind == "mistral" and is_absent else 0
        return config.whole("sliding_window", default, least=0) or None
    config.only("sliding_window")
    return None


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    config = {
        **decoders.write_sizes(sizes),
        "architectures": [CLASSES[sizes.model_type]],
        "model_type": sizes.model_type,
        "intermediate_size": sizes.hidden_features,
        "hidden_act": sizes.activation,
        **write_rope(sizes.rope),
    }
    if sizes.biased:
        config["attention_bias"] = True
    if sizes.rope.limit is not None:
        config["max_position_embeddings"] = sizes.rope.claimed_length
    if sizes.rotated != sizes.head_features:
        share = sizes.rotated / sizes.head_features
        config["partial_rotary_factor"] = share
        config["rope_parameters"]["partial_rotary_factor"] = share
    if sizes.model_type in ("mistral", "phi3"):
        config["sliding_window"] = sizes.window
    if sizes.model_type == "phi3":
        config[rope_.LENGTH] = sizes.length
    return config


def _head_norm(sizes: Sizes) -> Any:
    kinds: dict[str, Any] = {
        "qwen3": partial(norms.HeadRMSNorm, epsilon=sizes.epsilon),
        "olmo2": partial(norms.JointHeadNorm, epsilon=sizes.epsilon),
    }
    return kinds.get(sizes.model_type, norms.Identity)


def _bias(sizes: Sizes) -> biases.MakeBias:
    if sizes.biased:
        return ATTENTION_BIAS
    return QKV_BIAS if sizes.model_type == "qwen2" else biases.no_bias


def net(sizes: Sizes) -> decoder.Decoder:
    """The decoder: blocks of rotary attention and a gated MLP."""
    whole = sizes.rotated == sizes.head_features
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    slots: dict[str, Any] = {
        "make_attention": decoders.attention(
            sizes,
            mask=decoders.window(sizes.window),
            rotate=sizes.rope.rotate(None if whole else sizes.rotated),
            head_norm=_head_norm(sizes),
            make_bias=_bias(sizes),
        ),
        "make_mlp": decoders.mlp(sizes, mlp.GatedMLP),
        "make_norm": make_norm,
        "residual": output_norm if sizes.model_type == "olmo2" else pre_norm,
    }
    return decoders.build(
        sizes,
        slots=lambda layer: slots,
        make_norm=make_norm,
        make_position=decoders.position(sizes.rope),
    )


LAYER, BLOCK = "model.layers.{N}.", "stack/layers_{N}/"
MAPS, ATTEND = LAYER + "self_attn.", BLOCK + "attention/"
ENDS = (
    Rule("model.embed_tokens.weight", "embedding_VD", "V D"),
    Rule("model.norm.weight", "final_norm/gain_D", "D"),
)
PROJECTIONS = (
    Rule(MAPS + "q_proj.weight", ATTEND + "w_q_DHK", "(H K) D"),
    Rule(MAPS + "k_proj.weight", ATTEND + "w_k_DGK", "(G K) D"),
    Rule(MAPS + "v_proj.weight", ATTEND + "w_v_DGK", "(G K) D"),
)
OUTPUT = (Rule(MAPS + "o_proj.weight", ATTEND + "w_o_HKD", "D (H K)"),)
GATED = (
    Rule(LAYER + "mlp.gate_proj.weight", BLOCK + "mlp/w_gate_DF", "F D"),
    Rule(LAYER + "mlp.up_proj.weight", BLOCK + "mlp/w_in_DF", "F D"),
)
DOWN = (Rule(LAYER + "mlp.down_proj.weight", BLOCK + "mlp/w_out_FD", "D F"),)
NORMS = (
    Rule(LAYER + "input_layernorm.weight", BLOCK + "attention_norm/gain_D", "D"),
    Rule(LAYER + "post_attention_layernorm.weight", BLOCK + "mlp_norm/gain_D", "D"),
)
COMMON = (*ENDS, *NORMS, *PROJECTIONS, *OUTPUT, *GATED, *DOWN)
BIASES = (
    Rule(MAPS + "q_proj.bias", ATTEND + "b_q_HK", "(H K)"),
    Rule(MAPS + "k_proj.bias", ATTEND + "b_k_GK", "(G K)"),
    Rule(MAPS + "v_proj.bias", ATTEND + "b_v_GK", "(G K)"),
)
OUTPUT_BIAS = (Rule(MAPS + "o_proj.bias", ATTEND + "b_o_D", "D"),)
QWEN2 = (*COMMON, *BIASES)
HEAD_NORMS = (
    Rule(MAPS + "q_norm.weight", ATTEND + "q_norm/gain_K", "K"),
    Rule(MAPS + "k_norm.weight", ATTEND + "k_norm/gain_K", "K"),
)
QWEN3 = (*COMMON, *HEAD_NORMS)
OLMO2 = (
    *(*ENDS, *PROJECTIONS, *OUTPUT, *GATED, *DOWN),
    Rule(
        LAYER + "post_attention_layernorm.weight", BLOCK + "attention_norm/gain_D", "D"
    ),
    Rule(LAYER + "post_feedforward_layernorm.weight", BLOCK + "mlp_norm/gain_D", "D"),
    Rule(MAPS + "q_norm.weight", ATTEND + "q_norm/gain_HK", "(H K)"),
    Rule(MAPS + "k_norm.weight", ATTEND + "k_norm/gain_HK", "(H K)"),
)
PHI3 = (
    *(*ENDS, *NORMS, *OUTPUT, *DOWN),
    Rule(
        MAPS + "qkv_proj.weight",
        (ATTEND + "w_q_DHK", ATTEND + "w_k_DGK", ATTEND + "w_v_DGK"),
        "(H K + G K + G K) D",
    ),
    Rule(
        LAYER + "mlp.gate_up_proj.weight",
        (BLOCK + "mlp/w_gate_DF", BLOCK + "mlp/w_in_DF"),
        "(F + F) D",
    ),
)
TABLES = {"qwen2": QWEN2, "qwen3": QWEN3, "olmo2": OLMO2, "phi3": PHI3}


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    rules = TABLES.get(sizes.model_type, COMMON)
    rules = (*rules, *BIASES, *OUTPUT_BIAS) if sizes.biased else rules
    inv_freq = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    return decoders.table(rules, sizes.tied, ignored={inv_freq: "computed here"})


def notes(sizes: Sizes) -> tuple[str, ...]:
    """What is less than the configuration says: the length of rows."""
    rope = sizes.rope
    if rope.limit is None:
        return ()
    beyond = f"beyond, {rope.kind} has other frequencies, which are not expressed here"
    return (
        f"rows of at most {rope.limit} tokens, of {rope.claimed_length} that the "
        f"configuration says: {beyond}",
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: CLASSES[sizes.model_type],
    notes=notes,
)
