"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): pre-norm blocks without biases,
rotary positions, gated MLPs; windows in two of three layers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import encoders
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, parse_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import bert, defaults, encoder
from transformer.network import attention, biases, embeddings, masks, mlp, norms, stack
from transformer.network.block import Block, Make

CLASSES = {"ModernBertModel": False, "ModernBertForMaskedLM": True}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
# Of dropout, of other heads, of compilation.
UNUSED = (
    *("classifier_pooling", "cls_token_id", "deterministic_flash_attn"),
    *("embedding_dropout", "mlp_dropout", "initializer_cutoff_factor"),
    *("reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index"),
    *("layer_norm_eps", "position_embedding_type"),
)


class Sizes(NamedTuple):
    """What a configuration says of the net. ropes: of local and of global layers.
    window: tokens that a local layer sees on either side. layers: the kind of each.
    transform: the activation before the unembedding. padding: its id, which must be in
    the vocabulary. readout: a masked language model.
    """

    blocks: encoders.BlockSizes
    vocab_size: int
    length: int
    ropes: tuple[Rope, Rope]
    window: int
    layers: tuple[str, ...]
    transform: str
    padding: int
    readout: bool
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    for key in ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"):
        config.only(key, False)
    config.only("decoder_bias", True)
    config.only("sparse_prediction", False)
    config.only("tie_word_embeddings", True)
    for key in UNUSED:
        config.get(key, 0)
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if width % heads:
        raise config.error("num_attention_heads", f"a divisor of {width}")
    for key in ("hidden_activation", "classifier_activation"):
        config.choice(key, encoders.ACTIVATIONS, "gelu")
    depth = config.whole("num_hidden_layers")
    return Sizes(
        blocks=encoders.BlockSizes(
            width=width,
            hidden_features=config.whole("intermediate_size"),
            depth=depth,
            heads=heads,
            epsilon=config.positive("norm_eps", 1e-5),
            activation=config.get("hidden_activation", "gelu"),
        ),
        vocab_size=config.whole("vocab_size"),
        length=config.whole("max_position_embeddings", 8192),
        ropes=_read_ropes(config),
        window=config.whole("local_attention", 128) // 2,
        layers=_read_layers(config, depth),
        transform=config.get("classifier_activation", "gelu"),
        padding=config.whole("pad_token_id", 50283, least=0),
        readout=encoders.read_class(config, CLASSES, "ModernBertModel"),
    )


def _read_layers(config: Reader, depth: int) -> tuple[str, ...]:
    """The kind of each layer; every third is global where they are not listed."""
    period = config.whole("global_attn_every_n_layers", 3)
    every = [LOCAL if i % period else GLOBAL for i in range(depth)]
    layers = config.get("layer_types", every)
    known = isinstance(layers, list) and all(x in (LOCAL, GLOBAL) for x in layers)
    if not known or len(layers) != depth:
        raise config.error("layer_types", f"{depth} of {LOCAL}, {GLOBAL}")
    return tuple(layers)


def _read_ropes(config: Reader) -> tuple[Rope, Rope]:
    """Of local and of global layers; of either dialect."""
    old = (
        Rope(theta=config.number("local_rope_theta", 10_000.0)),
        Rope(theta=config.number("global_rope_theta", 160_000.0)),
    )
    new = config.get("rope_parameters", {})
    if not isinstance(new, dict) or not set(new) <= {LOCAL, GLOBAL}:
        raise config.error("rope_parameters", f"an object of {LOCAL}, {GLOBAL}")
    if not new:
        return old
    local, whole = (
        parse_rope(config, "rope_parameters", new.get(kind, {}), None)
        if kind in new
        else rope
        for kind, rope in zip((LOCAL, GLOBAL), old, strict=True)
    )
    says_old = {"local_rope_theta", "global_rope_theta"} & config.values.keys()
    if says_old and (local, whole) != old:
        raise config.error("rope_parameters", "the same as the older keys")
    return local, whole


def name(sizes: Sizes) -> str:
    """The class of transformers."""
    return next(k for k, readout in CLASSES.items() if readout == sizes.readout)


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    blocks, (local, whole) = sizes.blocks, sizes.ropes
    return {
        "architectures": [name(sizes)],
        "model_type": "modernbert",
        "vocab_size": sizes.vocab_size,
        "hidden_size": blocks.width,
        "intermediate_size": blocks.hidden_features,
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "max_position_embeddings": sizes.length,
        "norm_eps": blocks.epsilon,
        "hidden_activation": blocks.activation,
        "classifier_activation": sizes.transform,
        "local_attention": 2 * sizes.window,
        "pad_token_id": sizes.padding,
        "layer_types": list(sizes.layers),
        "local_rope_theta": local.theta,
        "global_rope_theta": whole.theta,
        "rope_parameters": {
            LOCAL: write_rope(local)["rope_parameters"],
            GLOBAL: write_rope(whole)["rope_parameters"],
        },
    }


def make_encoder(sizes: Sizes) -> Make:
    """The encoder."""
    blocks = sizes.blocks
    make_norm = partial(norms.UnbiasedLayerNorm, epsilon=blocks.epsilon)
    make_mlp = partial(
        mlp.GatedMLP,
        width=blocks.width,
        hidden_features=blocks.hidden_features,
        activation=encoders.ACTIVATIONS[blocks.activation],
    )

    def make_block(block: Any, layer: int) -> Any:
        is_local = sizes.layers[layer] == LOCAL
        near = masks.window(sizes.window, sizes.window)
        make_attention = partial(
            attention.Attention,
            width=blocks.width,
            heads=blocks.heads,
            kv_heads=blocks.heads,
            head_features=blocks.width // blocks.heads,
            mask=masks.segments() & near if is_local else masks.segments(),
            rotate=sizes.ropes[0 if is_local else 1].rotate(),
            make_mixer=defaults.ROW_BLOCKED,
        )
        return block(
            make_attention=make_attention,
            make_mlp=make_mlp,
            make_norm=make_norm,
            make_attention_norm=None if layer else norms.Identity,
        )

    return partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.PositionedEmbedding,
            make_content=partial(
                embeddings.AdditiveEmbedding,
                vocab_size=sizes.vocab_size,
                kinds=0,
                width=blocks.width,
            ),
            make_norm=make_norm,
        ),
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=blocks.depth,
            make_block=make_block,
            block=Block,
        ),
        make_norm=make_norm,
    )


def net(sizes: Sizes) -> Any:
    """The encoder, or the masked language model."""
    make = make_encoder(sizes)
    if not sizes.readout:
        return make()
    return bert.TiedMaskedLM(
        vocab_size=sizes.vocab_size,
        make_encoder=make,
        make_transform=partial(
            bert.FeatureTransform,
            width=sizes.blocks.width,
            activation=encoders.ACTIVATIONS[sizes.transform],
            make_norm=partial(norms.UnbiasedLayerNorm, epsilon=sizes.blocks.epsilon),
            make_bias=biases.no_bias,
        ),
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files; the first layer has no norm of attention."""
    theirs, ours = ("model.", "encoder/") if sizes.readout else ("", "")
    layer, block = f"{theirs}layers.{{N}}.", f"{ours}stack/layers_{{N}}/"
    attend = block + "attention/"
    table_name = f"{theirs}embeddings.tok_embeddings.weight"
    rules = [
        Rule(table_name, f"{ours}embed/content/embedding_VD", "V D"),
        Rule(f"{theirs}embeddings.norm.weight", f"{ours}embed/norm/gain_D", "D"),
        Rule(f"{theirs}final_norm.weight", f"{ours}final_norm/gain_D", "D"),
        Rule(
            layer + "attn.Wqkv.weight",
            (attend + "w_q_DHK", attend + "w_k_DGK", attend + "w_v_DGK"),
            "(H K + G K + G K) D",
        ),
        Rule(layer + "attn.Wo.weight", attend + "w_o_HKD", "D (H K)"),
        Rule(layer + "mlp_norm.weight", block + "mlp_norm/gain_D", "D"),
        Rule(
            layer + "mlp.Wi.weight",
            (block + "mlp/w_gate_DF", block + "mlp/w_in_DF"),
            "(F + F) D",
        ),
        Rule(layer + "mlp.Wo.weight", block + "mlp/w_out_FD", "D F"),
        Rule(layer + "attn_norm.weight", block + "attention_norm/gain_D", "D"),
    ]
    if sizes.readout:
        rules += [
            Rule("head.dense.weight", "transform/w_DO", "O D"),
            Rule("head.norm.weight", "transform/norm/gain_D", "D"),
            Rule("decoder.bias", "b_V", "V"),
        ]
    return Table(
        tuple(rules),
        tied={"decoder.weight": table_name} if sizes.readout else {},
        aliases={r"^model\.": theirs},
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=encoders.init_text,
    table=table,
    name=name,
    layers_repeat=lambda sizes: stack.repeats(("without a norm", *sizes.layers[1:])),
)
