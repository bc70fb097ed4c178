"""Whisper: from log-mel frames of 30 seconds of sound to text (Radford et al. 2022,
arXiv 2212.04356).

The encoder's table of positions is one of sines; files have it, and transformers does
not train it: `--freeze=encoder/embed/position` keeps it so here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, defaults, encoder, encoder_decoder
from transformer.network import (
    attention,
    biases,
    block,
    embeddings,
    masks,
    mlp,
    norms,
    positions,
    stack,
)

NAME = "WhisperForConditionalGeneration"
EMBEDDING = "model.decoder.embed_tokens.weight"
# Of training and generation only; generation_config.json is copied as it is.
HARMLESS = frozenset(
    """activation_dropout apply_spec_augment begin_suppress_tokens classifier_proj_size
    decoder_layerdrop decoder_start_token_id dropout encoder_layerdrop
    forced_decoder_ids init_std lang_to_id mask_feature_length mask_feature_min_masks
    mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob max_length
    median_filter_width suppress_tokens
    """.split()
)


class StackSizes(NamedTuple):
    """What a configuration says of the encoder's or the decoder's blocks."""

    depth: int
    heads: int
    hidden_features: int


class Sizes(NamedTuple):
    """What a configuration says of the net. mels: features of a frame. source_length:
    tokens of the encoder, half as many as frames; target_length: of a text, at most."""

    vocab_size: int
    width: int
    mels: int
    encoder: StackSizes
    decoder: StackSizes
    activation: str
    source_length: int
    target_length: int
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    config.only("architectures", [NAME])
    config.only("scale_embedding", False)
    config.only("use_weighted_layer_sum", False)
    config.only("tie_word_embeddings", True)
    for key in HARMLESS:
        config.get(key, None)
    width = config.whole("d_model")
    encoder_sizes = _read_stack(config, "encoder", width)
    # transformers writes the encoder's depth a second time.
    config.only("num_hidden_layers", encoder_sizes.depth)
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=width,
        mels=config.whole("num_mel_bins", 80),
        encoder=encoder_sizes,
        decoder=_read_stack(config, "decoder", width),
        activation=decoders.read_activation(config, "activation_function", "gelu"),
        source_length=config.whole("max_source_positions", 1500),
        target_length=config.whole("max_target_positions", 448),
    )


def _read_stack(config: Reader, side: str, width: int) -> StackSizes:
    heads = config.whole(f"{side}_attention_heads")
    if width % heads:
        raise config.error(f"{side}_attention_heads", f"a divisor of {width}")
    depth = config.whole(f"{side}_layers")
    return StackSizes(depth, heads, config.whole(f"{side}_ffn_dim"))


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    values = {
        "architectures": [NAME],
        "model_type": "whisper",
        "vocab_size": sizes.vocab_size,
        "d_model": sizes.width,
        "num_mel_bins": sizes.mels,
        "activation_function": sizes.activation,
        "max_source_positions": sizes.source_length,
        "max_target_positions": sizes.target_length,
        "num_hidden_layers": sizes.encoder.depth,
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }
    for side in ("encoder", "decoder"):
        blocks: StackSizes = getattr(sizes, side)
        values |= {
            f"{side}_layers": blocks.depth,
            f"{side}_attention_heads": blocks.heads,
            f"{side}_ffn_dim": blocks.hidden_features,
        }
    return values


def net(sizes: Sizes) -> encoder_decoder.EncoderDecoder:
    """The encoder of frames and the decoder of text."""
    content = partial(
        embeddings.ConvEmbedding,
        features=sizes.mels,
        width=sizes.width,
        activation=decoders.ACTIVATIONS[sizes.activation],
    )
    embed = partial(
        embeddings.PositionedEmbedding,
        make_content=content,
        make_position=partial(positions.LearnedGrid, length=sizes.source_length),
    )
    everything = {"make_attention": _attention(sizes, sizes.encoder, masks.full())}
    text = {
        "make_attention": _attention(sizes, sizes.decoder, decoders.CAUSAL),
        "make_cross_attention": _attention(sizes, sizes.decoder, masks.full()),
    }
    return encoder_decoder.EncoderDecoder(
        make_encoder=partial(
            encoder.Encoder,
            make_embed=embed,
            make_stack=_stack(sizes, sizes.encoder, everything, block.Block),
        ),
        make_decoder=partial(
            decoder.Decoder,
            vocab_size=sizes.vocab_size,
            width=sizes.width,
            make_stack=_stack(sizes, sizes.decoder, text, block.DecoderBlock),
            make_position=partial(positions.Learned, length=sizes.target_length),
            make_norm=norms.LayerNorm,
        ),
    )


def _attention(sizes: Sizes, blocks: StackSizes, mask: masks.Mask) -> Any:
    return partial(
        attention.Attention,
        width=sizes.width,
        heads=blocks.heads,
        kv_heads=blocks.heads,
        head_features=sizes.width // blocks.heads,
        mask=mask,
        make_mixer=defaults.ROW_BLOCKED,
        make_bias=biases.zero_init_bias_of("b_q_HK", "b_v_GK", "b_o_D"),
    )


def _stack(sizes: Sizes, blocks: StackSizes, slots: dict[str, Any], kind: Any) -> Any:
    make_mlp = partial(
        mlp.MLP,
        width=sizes.width,
        hidden_features=blocks.hidden_features,
        activation=decoders.ACTIVATIONS[sizes.activation],
        make_bias=biases.zero_init_bias,
    )
    return partial(
        stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
        depth=blocks.depth,
        make_block=lambda block, layer: block(**slots, make_mlp=make_mlp),
        block=kind,
    )


def init(net: encoder_decoder.EncoderDecoder, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    made: Any = net.make_encoder()
    embed = made.make_embed()
    length, mels = embed.make_position().length, embed.make_content().features
    raw_BLP, ids_BL = jnp.zeros((1, 2 * length, mels)), jnp.zeros((1, 1), jnp.int32)
    source, target = masks.single_document(length), masks.single_document(1)
    return net.init(key, raw_BLP, source, ids_BL, target)["params"]


def _attention_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.q_proj.weight", f"{ours}/w_q_DHK", "(H K) D"),
        Rule(f"{theirs}.q_proj.bias", f"{ours}/b_q_HK", "(H K)"),
        Rule(f"{theirs}.k_proj.weight", f"{ours}/w_k_DGK", "(G K) D"),
        Rule(f"{theirs}.v_proj.weight", f"{ours}/w_v_DGK", "(G K) D"),
        Rule(f"{theirs}.v_proj.bias", f"{ours}/b_v_GK", "(G K)"),
        Rule(f"{theirs}.out_proj.weight", f"{ours}/w_o_HKD", "D (H K)"),
        Rule(f"{theirs}.out_proj.bias", f"{ours}/b_o_D", "D"),
    ]


def _stack_rules(side: str, sublayers: dict[str, str]) -> list[Rule]:
    """Of `encoder` or `decoder`. sublayers: our name of each attention for theirs."""
    theirs, ours = f"model.{side}.layers.{{N}}", f"{side}/stack/layers_{{N}}"
    rules = []
    for name, own in sublayers.items():
        rules += _attention_rules(f"{theirs}.{name}", f"{ours}/{own}")
        rules += decoders.affine(f"{theirs}.{name}_layer_norm", f"{ours}/{own}_norm")
    return [
        *rules,
        *decoders.affine(f"{theirs}.final_layer_norm", f"{ours}/mlp_norm"),
        Rule(f"{theirs}.fc1.weight", f"{ours}/mlp/w_in_DF", "F D"),
        Rule(f"{theirs}.fc1.bias", f"{ours}/mlp/b_in_F", "F"),
        Rule(f"{theirs}.fc2.weight", f"{ours}/mlp/w_out_FD", "D F"),
        Rule(f"{theirs}.fc2.bias", f"{ours}/mlp/b_out_D", "D"),
        *decoders.affine(f"model.{side}.layer_norm", f"{side}/final_norm"),
    ]


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    embed = "encoder/embed/content"
    rules = [
        Rule("model.encoder.conv1.weight", f"{embed}/w_in_WPD", "D P W"),
        Rule("model.encoder.conv1.bias", f"{embed}/b_in_D", "D"),
        Rule("model.encoder.conv2.weight", f"{embed}/w_out_WDO", "O D W"),
        Rule("model.encoder.conv2.bias", f"{embed}/b_out_O", "O"),
        _positions("encoder", "encoder/embed/position"),
        _positions("decoder", "decoder/position"),
        Rule(EMBEDDING, "decoder/embedding_VD", "V D"),
        *_stack_rules("encoder", {"self_attn": "attention"}),
        *_stack_rules(
            "decoder", {"self_attn": "attention", "encoder_attn": "cross_attention"}
        ),
    ]
    return decoders.table(
        rules, tied=True, embedding=EMBEDDING, readout="proj_out.weight"
    )


def _positions(side: str, ours: str) -> Rule:
    theirs = f"model.{side}.embed_positions.weight"
    return Rule(theirs, f"{ours}/position_LD", "L D")


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=init,
    table=table,
    name=lambda sizes: NAME,
)
