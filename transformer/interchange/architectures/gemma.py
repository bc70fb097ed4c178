"""Gemma, Gemma 2 and Gemma 3 (text): a scaled embedding, RMS norms of gain 1 + w; from
the second on, norms of each sublayer's output too, and windows that alternate with
whole attention. The second has soft caps of scores and logits, the third QK-norm. Of
`Gemma3ForConditionalGeneration`, which reads images too, the decoder of text is read.

Gemma team 2024, arXiv 2403.08295 and 2408.00118; 2025, arXiv 2503.19786.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, llama
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, parse_rope, read_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, defaults
from transformer.network import mlp, norms, stack
from transformer.network.block import pre_norm, sandwich_norm

CLASSES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
LOCAL, GLOBAL = decoders.LOCAL, decoders.GLOBAL
TANH_GELU = "gelu_pytorch_tanh"
# Of Gemma 3 with images: what its `text_config` leaves out, and keys of images.
TEXT = {
    **{"model_type": "gemma3_text", "vocab_size": 262_208, "hidden_size": 2304},
    **{"intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8},
    **{"num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072},
}
IMAGES = (
    *("vision_config", "mm_tokens_per_image", "image_token_index"),
    *("boi_token_index", "eoi_token_index"),
)


class Sizes(NamedTuple):
    """What a configuration says of the net. query_scalar: attention scores are divided
    by its root. ropes: of local and global layers. layers: the kind of each. soft_caps:
    of scores and of logits."""

    model_type: str
    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    length: int
    epsilon: float
    activation: str
    query_scalar: int
    ropes: tuple[Rope, Rope]
    window: int
    layers: tuple[str, ...]
    tied: bool
    soft_caps: tuple[float | None, float | None]
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    if kind == "gemma3":
        return _read_text(config)
    alternates = kind != "gemma"
    depth, head = config.whole("num_hidden_layers"), config.whole("head_dim", 256)
    for key in ("attention_bias", "use_bidirectional_attention"):
        config.only(key, False)
    activation = config.get("hidden_activation", TANH_GELU)
    # The first Gemma's `gelu` means that formula, here and in transformers.
    is_first = kind == "gemma" and activation == TANH_GELU
    config.only("hidden_act", activation, *(("gelu",) if is_first else ()))
    layers = (GLOBAL,) * depth
    if alternates:
        layers = _read_layers(config, depth, period=6 if kind == "gemma3_text" else 2)
    scalar = config.whole("query_pre_attn_scalar", 256) if alternates else head
    return Sizes(
        model_type=kind,
        vocab_size=config.whole("vocab_size"),
        width=config.whole("hidden_size"),
        hidden_features=config.whole("intermediate_size"),
        depth=depth,
        heads=config.whole("num_attention_heads"),
        kv_heads=config.whole("num_key_value_heads"),
        head_features=head,
        length=config.whole("max_position_embeddings"),
        epsilon=config.positive("rms_norm_eps", 1e-6),
        activation=decoders.read_activation(config, "hidden_activation", TANH_GELU),
        query_scalar=scalar,
        ropes=_read_ropes(config, kind),
        window=config.whole("sliding_window", 4096) if alternates else 0,
        layers=layers,
        tied=config.flag("tie_word_embeddings", True),
        soft_caps=_read_caps(config, kind),
    )


def _read_text(config: Reader) -> Sizes:
    """The decoder of a model of text and images."""
    config.only("architectures", ["Gemma3ForConditionalGeneration"])
    config.only("tie_word_embeddings", True)
    for key in IMAGES:
        config.get(key, 0)
    value = config.get("text_config", {})
    if not isinstance(value, dict):
        raise config.error("text_config", "an object")
    text = Reader({**TEXT, **value}, f"{config.where}: text_config")
    text.only("model_type", "gemma3_text")
    sizes = read(text)
    text.finish()
    return sizes


def _read_caps(config: Reader, kind: str) -> tuple[float | None, float | None]:
    """Null is none; an absent key is the default of Gemma 2."""
    if kind == "gemma2":
        scores, logits = (config.positive_or_none(*pair) for pair in CAPS.items())
        return scores, logits
    for key in CAPS:
        config.only(key)
    return None, None


def _read_layers(config: Reader, depth: int, *, period: int) -> tuple[str, ...]:
    """The kind of each layer; the last of each `period` is global where they are not
    listed."""
    private = config.whole("_sliding_window_pattern", period)
    period = config.whole("sliding_window_pattern", private)
    return decoders.read_layers(config, depth, period=period)


def _read_ropes(config: Reader, kind: str) -> tuple[Rope, Rope]:
    """Of local and global layers; transformers 5 has one for each kind of layer."""
    new = config.get("rope_parameters", {})
    if kind != "gemma3_text":
        rope = read_rope(config)
        return rope, rope
    if not isinstance(new, dict) or not set(new) <= {LOCAL, GLOBAL}:
        raise config.error("rope_parameters", f"an object of {LOCAL}, {GLOBAL}")
    theta = config.number("rope_theta", 1_000_000.0)
    local = config.number("rope_local_base_freq", 10_000.0)
    old = parse_rope(config, "rope_scaling", config.get("rope_scaling", {}), theta)
    found = Rope(theta=local), old
    if new:
        parsed = tuple(
            parse_rope(config, "rope_parameters", new.get(kind, {}), None)
            for kind in (LOCAL, GLOBAL)
        )
        says_old = {"rope_theta", "rope_local_base_freq"} & config.values.keys()
        if says_old and parsed != found:
            raise config.error("rope_parameters", "the same as the older keys")
        found = parsed[0], parsed[1]
    return found


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    local, whole = (write_rope(rope) for rope in sizes.ropes)
    config = {
        **decoders.write_sizes(sizes),
        "architectures": [CLASSES[sizes.model_type]],
        "model_type": sizes.model_type,
        "intermediate_size": sizes.hidden_features,
        "hidden_activation": sizes.activation,
        **whole,
    }
    if sizes.model_type == "gemma":
        return {**config, "hidden_act": sizes.activation}
    config |= {
        "query_pre_attn_scalar": sizes.query_scalar,
        "sliding_window": sizes.window,
        "layer_types": list(sizes.layers),
    }
    if sizes.model_type == "gemma2":
        return config | dict(zip(CAPS, sizes.soft_caps, strict=True))
    return config | {
        "rope_local_base_freq": sizes.ropes[0].theta,
        "rope_parameters": {
            LOCAL: local["rope_parameters"],
            GLOBAL: whole["rope_parameters"],
        },
    }


def net(sizes: Sizes) -> decoder.Decoder:
    """The decoder."""
    is_first, is_third = sizes.model_type == "gemma", sizes.model_type == "gemma3_text"
    scores_cap, logits_cap = sizes.soft_caps
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon, offset=1.0)
    head_norm = partial(norms.HeadRMSNorm, epsilon=sizes.epsilon, offset=1.0)
    make_mlp = decoders.mlp(sizes, mlp.GatedMLP)
    sandwich = partial(norms.SandwichNorm, make_norm=make_norm)

    def slots(layer: int) -> dict[str, Any]:
        is_local = sizes.layers[layer] == LOCAL
        make_attention = decoders.attention(
            sizes,
            mask=decoders.window(sizes.window if is_local else None),
            rotate=sizes.ropes[0 if is_local else 1].rotate(),
            make_mixer=defaults.row_blocked(128, soft_cap=scores_cap),
            head_norm=head_norm if is_third else norms.Identity,
            score_scale=sizes.query_scalar**-0.5,
        )
        return {
            "make_attention": make_attention,
            "make_mlp": make_mlp,
            "make_norm": make_norm if is_first else sandwich,
            "residual": pre_norm if is_first else sandwich_norm,
        }

    return decoders.build(
        sizes,
        slots=slots,
        make_norm=make_norm,
        soft_cap=logits_cap,
        embedding_scale=sizes.width**0.5,
    )


GEMMA2 = (
    *(*llama.ENDS, *llama.PROJECTIONS, *llama.OUTPUT, *llama.GATED, *llama.DOWN),
    *(
        Rule(f"{llama.LAYER}{theirs}.weight", f"{llama.BLOCK}{ours}/gain_D", "D")
        for theirs, ours in {
            "input_layernorm": "attention_norm/input",
            "post_attention_layernorm": "attention_norm/output",
            "pre_feedforward_layernorm": "mlp_norm/input",
            "post_feedforward_layernorm": "mlp_norm/output",
        }.items()
    ),
)
TABLES = {
    "gemma": llama.COMMON,
    "gemma2": GEMMA2,
    "gemma3_text": (*GEMMA2, *llama.HEAD_NORMS),
}


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files; those of a model of images too have another
    prefix."""
    made = decoders.table(TABLES[sizes.model_type], sizes.tied)
    if sizes.model_type != "gemma3_text":
        return made
    aliases = {
        r"^model\.(vision_tower|multi_modal_projector)\.": r"\1.",
        r"^(language_model\.model|model\.language_model)\.": "model.",
        r"^language_model\.lm_head\.": "lm_head.",
    }
    images = r"(vision_tower|multi_modal_projector)\..*"
    return made._replace(
        aliases={**aliases, **made.aliases},
        left_out={images: "they read images; the decoder of text is used alone"},
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: CLASSES[sizes.model_type],
    layers_repeat=lambda sizes: stack.repeats(sizes.layers),
)
