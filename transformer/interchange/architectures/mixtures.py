"""Llama with a mixture of gated experts in each layer: Mixtral, whose gates sum to one,
Qwen 3 MoE, with QK-norm, and Qwen 2 MoE (Qwen 1.5's too), with biases of queries, keys
and values and a shared expert.

Jiang et al. 2024, arXiv 2401.04088; Yang et al. 2025, arXiv 2505.09388; Yang et al.
2024, arXiv 2407.10671.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, llama
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, mlp, norms
from transformer.network.block import Make
from transformer.network.moe import experts, routing

CLASSES = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


DROPLESS = routing.dropless_dispatch()
# Experts of a token, where a configuration does not say.
CHOSEN = {"mixtral": 2, "qwen2_moe": 4, "qwen3_moe": 8}


class Sizes(NamedTuple):
    """What a configuration says of the net. hidden_features: of an expert.
    shared_features: of the expert that all tokens use, 0 for none. normalized: the
    gates of a token sum to one. window: keys that a token sees, itself included, or
    None. biased: queries, keys and values."""

    model_type: str
    vocab_size: int
    width: int
    hidden_features: int
    experts: int
    experts_per_token: int
    normalized: bool
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    length: int
    epsilon: float
    activation: str
    rope: Rope
    tied: bool
    window: int | None
    shared_features: int = 0
    biased: bool = False
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    is_mixtral = kind == "mixtral"
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    # Of training only.
    for key in ("router_aux_loss_coef", "router_jitter_noise", "output_router_logits"):
        config.get(key, 0)
    return Sizes(
        model_type=kind,
        vocab_size=config.whole("vocab_size"),
        width=width,
        experts=read_experts(config),
        experts_per_token=config.whole("num_experts_per_tok", CHOSEN[kind]),
        **(_read_mixtral(config) if is_mixtral else _read_qwen(config, kind)),
        depth=config.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", heads),
        head_features=config.whole("head_dim", width // heads),
        length=config.whole("max_position_embeddings"),
        epsilon=config.positive("rms_norm_eps", 1e-5 if is_mixtral else 1e-6),
        activation=decoders.read_activation(config, "hidden_act", "silu"),
        rope=read_rope(config, theta=1e6 if is_mixtral else 1e4),
        tied=config.flag("tie_word_embeddings", False),
    )


def read_experts(config: Reader) -> int:
    """The number of experts, which two keys may say."""
    count = config.whole("num_local_experts", config.get("num_experts", 8))
    config.only("num_experts", count)
    return count


def _read_mixtral(config: Reader) -> dict[str, Any]:
    return {
        "hidden_features": config.whole("intermediate_size"),
        "normalized": True,
        "window": config.whole("sliding_window", 0, least=0) or None,
    }


def _read_qwen(config: Reader, kind: str) -> dict[str, Any]:
    if kind == "qwen2_moe":
        own = {
            "shared_features": config.whole("shared_expert_intermediate_size", 5632),
            "biased": config.flag("qkv_bias", True),
        }
    else:
        config.only("attention_bias", False)
        own = {}
    depth = config.whole("num_hidden_layers")
    config.only("layer_types", [decoders.GLOBAL] * depth)
    # Layers without experts, whose width is `intermediate_size`.
    config.only("decoder_sparse_step", 1)
    config.only("mlp_only_layers", [])
    config.get("intermediate_size", 0)
    config.only("use_sliding_window", False)
    config.get("sliding_window", 0)
    config.get("max_window_layers", 0)
    return {
        "hidden_features": config.whole("moe_intermediate_size"),
        "normalized": config.flag("norm_topk_prob", False),
        "window": None,
        **own,
    }


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    config = {
        **decoders.write_sizes(sizes),
        "architectures": [CLASSES[sizes.model_type]],
        "model_type": sizes.model_type,
        "num_local_experts": sizes.experts,
        "num_experts_per_tok": sizes.experts_per_token,
        "hidden_act": sizes.activation,
        **write_rope(sizes.rope),
    }
    if sizes.model_type == "mixtral":
        width = {"intermediate_size": sizes.hidden_features}
        return {**config, **width, "sliding_window": sizes.window}
    if sizes.model_type == "qwen2_moe":
        config["shared_expert_intermediate_size"] = sizes.shared_features
        config["qkv_bias"] = sizes.biased
    return {
        **config,
        # transformers 4 reads this key only.
        "num_experts": sizes.experts,
        "moe_intermediate_size": sizes.hidden_features,
        "norm_topk_prob": sizes.normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def net(sizes: Sizes, dispatch: routing.Dispatch = DROPLESS) -> decoder.Decoder:
    """The decoder: blocks of rotary attention and a mixture of gated experts."""
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    head_norm = partial(norms.HeadRMSNorm, epsilon=sizes.epsilon)
    make_mlp = make_experts(
        sizes,
        dispatch=dispatch,
        gates=routing.softmax_gates if sizes.normalized else routing.raw_gates,
    )
    if sizes.shared_features:
        shared = decoders.mlp(
            sizes, mlp.GatedMLP, hidden_features=sizes.shared_features
        )
        gated = partial(experts.SigmoidGate, shared, sizes.width)
        make_mlp = partial(experts.SharedExperts, make_mlp, gated)
    slots: dict[str, Any] = {
        "make_attention": decoders.attention(
            sizes,
            mask=decoders.window(sizes.window),
            rotate=sizes.rope.rotate(),
            head_norm=head_norm if sizes.model_type == "qwen3_moe" else norms.Identity,
            make_bias=llama.QKV_BIAS if sizes.biased else biases.no_bias,
        ),
        "make_mlp": make_mlp,
        "make_norm": make_norm,
    }
    return decoders.build(sizes, slots=lambda layer: slots, make_norm=make_norm)


def make_experts(sizes: Any, **options: Any) -> Make:
    """A mixture of gated experts of `sizes`. options: of `MixtureOfExperts`."""
    return partial(
        experts.MixtureOfExperts,
        width=sizes.width,
        hidden_features=sizes.hidden_features,
        experts=sizes.experts,
        experts_per_token=sizes.experts_per_token,
        activation=decoders.ACTIVATIONS[sizes.activation],
        expert_map=experts.gated_experts,
        **options,
    )


def expert_rules(
    router: str, experts: str, gate: str, up: str, down: str, *, ours: str = "mlp/"
) -> Any:
    """Rules of router and experts, at `ours` of a block."""
    ours = llama.BLOCK + ours
    expert = f"{llama.LAYER}{experts}.{{E}}."
    return (
        Rule(f"{llama.LAYER}{router}.weight", ours + "w_router_DE", "E D"),
        Rule(f"{expert}{gate}.weight", ours + "w_gate_EDF", "F D"),
        Rule(f"{expert}{up}.weight", ours + "w_in_EDF", "F D"),
        Rule(f"{expert}{down}.weight", ours + "w_out_EFD", "D F"),
    )


def gated_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Rules of a gated MLP of a block."""
    theirs, ours = llama.LAYER + theirs, llama.BLOCK + ours
    return (
        Rule(f"{theirs}.gate_proj.weight", f"{ours}/w_gate_DF", "F D"),
        Rule(f"{theirs}.up_proj.weight", f"{ours}/w_in_DF", "F D"),
        Rule(f"{theirs}.down_proj.weight", f"{ours}/w_out_FD", "D F"),
    )


# Router, experts and the maps of one.
NAMES = "mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj"
COMMON = (*llama.ENDS, *llama.NORMS, *llama.PROJECTIONS, *llama.OUTPUT)
MIXTRAL = (
    *COMMON,
    *expert_rules(
        "block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2"
    ),
)
QWEN3_MOE = (
    *COMMON,
    *llama.HEAD_NORMS,
    *expert_rules(*NAMES),
)
QWEN2_MOE = (
    *(*COMMON, *llama.BIASES, *expert_rules(*NAMES, ours="mlp/experts/")),
    *gated_rules("mlp.shared_expert", "mlp/shared/mlp"),
    Rule(
        llama.LAYER + "mlp.shared_expert_gate.weight",
        llama.BLOCK + "mlp/shared/w_gate_DO",
        "O D",
    ),
)
TABLES = {"mixtral": MIXTRAL, "qwen2_moe": QWEN2_MOE, "qwen3_moe": QWEN3_MOE}


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    rules = TABLES[sizes.model_type]
    if sizes.model_type == "qwen2_moe" and not sizes.biased:
        rules = tuple(rule for rule in rules if rule not in llama.BIASES)
    return decoders.table(rules, sizes.tied)


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    mixture=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: CLASSES[sizes.model_type],
)
