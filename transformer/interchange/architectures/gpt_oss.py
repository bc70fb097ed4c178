"""gpt-oss: attention with sinks, every second layer in a window; clamped gated experts
with biases; rotary positions by YaRN. The published files are MXFP4, which is refused
(`quantization_config`): dequantize them first.

OpenAI 2025, arXiv 2508.10925.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, llama, mixtures
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, norms, sink_attention, stack
from transformer.network.moe import experts, routing

NAME = "GptOssForCausalLM"


class Sizes(NamedTuple):
    """What a configuration says of the net. hidden_features: of an expert. alpha,
    limit: of its gated unit. window: keys that a token of a local layer sees, itself
    included. layers: the kind of each."""

    vocab_size: int
    width: int
    hidden_features: int
    experts: int
    experts_per_token: int
    alpha: float
    limit: float
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    length: int
    epsilon: float
    rope: Rope
    window: int
    layers: tuple[str, ...]
    tied: bool
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    config.only("attention_bias", True)
    config.only("hidden_act", "silu")
    # Of training only.
    for key in ("router_aux_loss_coef", "output_router_logits"):
        config.get(key, 0)
    depth = config.whole("num_hidden_layers")
    chosen = config.whole("num_experts_per_tok", 4)
    config.only("experts_per_token", chosen)
    if not any(config.get(key, {}) for key in ("rope_parameters", "rope_scaling")):
        raise config.error("rope_parameters", "an object")
    rope = read_rope(config, theta=150_000.0)
    config.only("initial_context_length", rope.length)
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=config.whole("hidden_size"),
        hidden_features=config.whole("intermediate_size"),
        experts=mixtures.read_experts(config),
        experts_per_token=chosen,
        alpha=config.number("swiglu_alpha", 1.702),
        limit=config.positive("swiglu_limit", 7.0),
        depth=depth,
        heads=config.whole("num_attention_heads"),
        kv_heads=config.whole("num_key_value_heads"),
        head_features=config.whole("head_dim"),
        length=config.whole("max_position_embeddings"),
        epsilon=config.positive("rms_norm_eps", 1e-5),
        rope=rope,
        window=config.whole("sliding_window", 128),
        layers=decoders.read_layers(config, depth, period=2),
        tied=config.flag("tie_word_embeddings", False),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    return {
        **decoders.write_sizes(sizes),
        "architectures": [NAME],
        "model_type": "gpt_oss",
        "intermediate_size": sizes.hidden_features,
        "num_local_experts": sizes.experts,
        "num_experts_per_tok": sizes.experts_per_token,
        "swiglu_alpha": sizes.alpha,
        "swiglu_limit": sizes.limit,
        "attention_bias": True,
        "hidden_act": "silu",
        "sliding_window": sizes.window,
        "layer_types": list(sizes.layers),
        **write_rope(sizes.rope),
    }


def net(
    sizes: Sizes, dispatch: routing.Dispatch = mixtures.DROPLESS
) -> decoder.Decoder:
    """The decoder."""
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    make_mlp = partial(
        experts.MixtureOfExperts,
        width=sizes.width,
        hidden_features=sizes.hidden_features,
        experts=sizes.experts,
        experts_per_token=sizes.experts_per_token,
        dispatch=dispatch,
        gates=routing.softmax_gates,
        expert_map=experts.clamped_experts(alpha=sizes.alpha, limit=sizes.limit),
        make_bias=biases.zero_init_bias,
    )

    def slots(layer: int) -> dict[str, Any]:
        is_local = sizes.layers[layer] == decoders.LOCAL
        make_attention = decoders.attention(
            sizes,
            mask=decoders.window(sizes.window if is_local else None),
            rotate=sizes.rope.rotate(),
            make_mixer=sink_attention.SinkAttention,
            make_bias=biases.zero_init_bias,
        )
        return {
            "make_attention": make_attention,
            "make_mlp": make_mlp,
            "make_norm": make_norm,
        }

    return decoders.build(sizes, slots=slots, make_norm=make_norm)


_THEIRS, _OURS = llama.LAYER + "mlp.", llama.BLOCK + "mlp/"
RULES = (
    *(*llama.ENDS, *llama.NORMS, *llama.PROJECTIONS, *llama.BIASES, *llama.OUTPUT),
    Rule(llama.MAPS + "o_proj.bias", llama.ATTEND + "b_o_D", "D"),
    Rule(llama.MAPS + "sinks", llama.ATTEND + "mixer/sink_H", "H"),
    Rule(_THEIRS + "router.weight", _OURS + "w_router_DE", "E D"),
    Rule(_THEIRS + "router.bias", _OURS + "b_router_E", "E"),
    # Gate and up by turns.
    Rule(
        _THEIRS + "experts.gate_up_proj",
        (_OURS + "w_gate_EDF", _OURS + "w_in_EDF"),
        "E D (F 2)",
    ),
    Rule(
        _THEIRS + "experts.gate_up_proj_bias",
        (_OURS + "b_gate_EF", _OURS + "b_in_EF"),
        "E (F 2)",
    ),
    Rule(_THEIRS + "experts.down_proj", _OURS + "w_out_EFD", "E F D"),
    Rule(_THEIRS + "experts.down_proj_bias", _OURS + "b_out_ED", "E D"),
)


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    return decoders.table(RULES, sizes.tied)


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    mixture=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: NAME,
    layers_repeat=lambda sizes: stack.repeats(sizes.layers),
)
