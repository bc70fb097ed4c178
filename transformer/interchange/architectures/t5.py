"""T5 and T5 1.1: an encoder-decoder with relative biases that all layers of a stack
share, and scores without a scale. T5 1.1 has a gated MLP and an unembedding of its own.

Raffel et al. 2020, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, encoder_decoder
from transformer.models.shared_encoder_decoder import SharedEncoderDecoder
from transformer.network import (
    attention,
    block,
    masks,
    mlp,
    norms,
    precision,
    relative_bias,
)

NAME = "T5ForConditionalGeneration"
MAX_DISTANCE = 1 << 16
# The activation for each `feed_forward_proj`; T5 1.1's gelu is the tanh formula.
GATED = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}
PLAIN = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_new", "silu": "silu"}
# Of training and generation only.
HARMLESS = (
    *("decoder_start_token_id", "dropout_rate", "max_length", "n_positions"),
    *("num_beams", "output_past"),
)


class Sizes(NamedTuple):
    """What a configuration says of the net. feed_forward: the kind of MLP. buckets,
    max_distance: of the relative bias. scaled: the logits by width^-0.5."""

    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    decoder_depth: int
    heads: int
    head_features: int
    epsilon: float
    feed_forward: str
    buckets: int
    max_distance: int
    tied: bool
    scaled: bool
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kinds = GATED | PLAIN
    activation = config.choice("feed_forward_proj", kinds, "relu")
    feed_forward = config.get("feed_forward_proj", "relu")
    config.only("dense_act_fn", activation)
    config.only("is_gated_act", feed_forward in GATED)
    for key in HARMLESS:
        config.get(key, None)
    tied = config.flag("tie_word_embeddings", True)
    depth = config.whole("num_layers")
    buckets = config.whole("relative_attention_num_buckets", 32, least=4)
    max_distance = config.whole("relative_attention_max_distance", 128)
    if not buckets // 2 < max_distance <= MAX_DISTANCE:
        raise config.error(
            "relative_attention_max_distance",
            f"more than half of {buckets} buckets, at most {MAX_DISTANCE}",
        )
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=config.whole("d_model"),
        hidden_features=config.whole("d_ff"),
        depth=depth,
        decoder_depth=config.whole("num_decoder_layers", depth),
        heads=config.whole("num_heads"),
        head_features=config.whole("d_kv"),
        epsilon=config.positive("layer_norm_epsilon", 1e-6),
        feed_forward=feed_forward,
        buckets=buckets,
        max_distance=max_distance,
        tied=tied,
        # transformers 4 has no such key: tied ones are scaled.
        scaled=config.flag("scale_decoder_outputs", tied),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [NAME],
        "model_type": "t5",
        "vocab_size": sizes.vocab_size,
        "d_model": sizes.width,
        "d_ff": sizes.hidden_features,
        "d_kv": sizes.head_features,
        "num_layers": sizes.depth,
        "num_decoder_layers": sizes.decoder_depth,
        "num_heads": sizes.heads,
        "layer_norm_epsilon": sizes.epsilon,
        "feed_forward_proj": sizes.feed_forward,
        "relative_attention_num_buckets": sizes.buckets,
        "relative_attention_max_distance": sizes.max_distance,
        "tie_word_embeddings": sizes.tied,
        "scale_decoder_outputs": sizes.scaled,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
    }


def net(sizes: Sizes) -> SharedEncoderDecoder:
    """The encoder-decoder."""
    if sizes.scanned:
        raise ValueError(
            "t5: expected scanned=False, for layers share a bias, got True"
        )
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    is_gated = sizes.feed_forward in GATED
    activation = (GATED | PLAIN)[sizes.feed_forward]
    make_mlp: Any = partial(
        mlp.GatedMLP if is_gated else mlp.MLP,
        width=sizes.width,
        hidden_features=sizes.hidden_features,
        activation=decoders.ACTIVATIONS[activation],
    )
    common: dict[str, Any] = {"make_mlp": make_mlp, "make_norm": make_norm}
    cross = partial(_attention, sizes, masks.segments(), None)

    def encoder_block(kind: Any, layer: int, *, bias: Any) -> Any:
        make = partial(_attention, sizes, masks.segments(), bias)
        return kind(make_attention=make, **common)

    def decoder_block(kind: Any, layer: int, *, bias: Any) -> Any:
        make = partial(_attention, sizes, decoders.CAUSAL, bias)
        return kind(make_attention=make, make_cross_attention=cross, **common)

    unembed: Any = decoder.tied_unembedding
    if not sizes.tied:
        unembed = decoder.untied_unembedding
    if sizes.scaled:
        scale = precision.Scale(sizes.width**-0.5)
        unembed = decoder.with_transform(unembed, scale)
    return SharedEncoderDecoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        make_encoder_stack=_stack(sizes, sizes.depth, encoder_block, block.Block),
        make_decoder_stack=_stack(
            sizes, sizes.decoder_depth, decoder_block, block.DecoderBlock
        ),
        make_norm=make_norm,
        unembed=unembed,
    )


def _attention(sizes: Sizes, mask: masks.Mask, bias: Any) -> attention.Attention:
    return attention.Attention(
        width=sizes.width,
        heads=sizes.heads,
        kv_heads=sizes.heads,
        head_features=sizes.head_features,
        mask=mask,
        make_mixer=partial(attention.SoftmaxAttention, bias=bias),
        score_scale=1.0,
    )


def _stack(sizes: Sizes, depth: int, make_block: Any, kind: Any) -> Any:
    make_bias = partial(
        relative_bias.RelativeBias,
        heads=sizes.heads,
        buckets=sizes.buckets,
        max_distance=sizes.max_distance,
        bidirectional=kind is block.Block,
    )
    return partial(
        relative_bias.SharedBiasStack,
        depth=depth,
        make_block=make_block,
        block=kind,
        make_bias=make_bias,
    )


def _attention_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.q.weight", f"{ours}/w_q_DHK", "(H K) D"),
        Rule(f"{theirs}.k.weight", f"{ours}/w_k_DGK", "(G K) D"),
        Rule(f"{theirs}.v.weight", f"{ours}/w_v_DGK", "(G K) D"),
        Rule(f"{theirs}.o.weight", f"{ours}/w_o_HKD", "D (H K)"),
    ]


def _mlp_rules(theirs: str, ours: str, *, is_gated: bool) -> list[Rule]:
    down = Rule(f"{theirs}.wo.weight", f"{ours}/w_out_FD", "D F")
    if not is_gated:
        return [Rule(f"{theirs}.wi.weight", f"{ours}/w_in_DF", "F D"), down]
    return [
        Rule(f"{theirs}.wi_0.weight", f"{ours}/w_gate_DF", "F D"),
        Rule(f"{theirs}.wi_1.weight", f"{ours}/w_in_DF", "F D"),
        down,
    ]


def _stack_rules(side: str, sublayers: list[str], *, is_gated: bool) -> list[Rule]:
    """Of `encoder` or `decoder`, with these sublayers of ours in their order."""
    names = {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rules = [
        Rule(first, f"{side}_stack/bias/bias_CH", "C H"),
        Rule(f"{side}.final_layer_norm.weight", f"{side}_norm/gain_D", "D"),
    ]
    for number, name in enumerate(sublayers):
        theirs = f"{side}.block.{{N}}.layer.{number}."
        ours = f"{side}_stack/layers_{{N}}/{name}"
        rules.append(Rule(f"{theirs}layer_norm.weight", f"{ours}_norm/gain_D", "D"))
        if name == "mlp":
            rules += _mlp_rules(f"{theirs}DenseReluDense", ours, is_gated=is_gated)
        else:
            rules += _attention_rules(theirs + names[name], ours)
    return rules


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    is_gated = sizes.feed_forward in GATED
    sides = "encoder", "decoder"
    tied = {f"{side}.embed_tokens.weight": "shared.weight" for side in sides}
    cross = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\."
    rules = [
        Rule("shared.weight", "embedding_VD", "V D"),
        *_stack_rules("encoder", ["attention", "mlp"], is_gated=is_gated),
        *_stack_rules(
            "decoder", ["attention", "cross_attention", "mlp"], is_gated=is_gated
        ),
    ]
    ignored = {cross + "weight": "transformers does not use it either"}
    made = decoders.table(rules, sizes.tied, embedding="shared.weight", ignored=ignored)
    return made._replace(tied={**tied, **made.tied})


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=encoder_decoder.init_params,
    table=table,
    name=lambda sizes: NAME,
    layers_repeat=lambda sizes: False,
)
