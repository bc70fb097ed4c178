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
from transformer.interchange.architectures import decoders, encoder_decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, encoder, encoder_decoder
from transformer.network import biases, embeddings, masks, norms, positions

NAME = "WhisperForConditionalGeneration"
EMBEDDING = "model.decoder.embed_tokens.weight"
# Of training and generation only; generation_config.json is copied as it is.
HARMLESS = encoder_decoders.HARMLESS | frozenset(
    """apply_spec_augment begin_suppress_tokens classifier_proj_size
    forced_decoder_ids lang_to_id mask_feature_length mask_feature_min_masks
    mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob
    median_filter_width suppress_tokens
    """.split()
)


class Sizes(NamedTuple):
    """What a configuration says of the net. mels: features of a frame. source_length:
    tokens of the encoder, half as many as frames; target_length: of a text, at most."""

    vocab_size: int
    width: int
    mels: int
    encoder: encoder_decoders.StackSizes
    decoder: encoder_decoders.StackSizes
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
    encoder_sizes = encoder_decoders.read_stack(config, "encoder", width)
    # transformers writes the encoder's depth a second time.
    config.only("num_hidden_layers", encoder_sizes.depth)
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=width,
        mels=config.whole("num_mel_bins", 80),
        encoder=encoder_sizes,
        decoder=encoder_decoders.read_stack(config, "decoder", width),
        activation=decoders.read_activation(config, "activation_function", "gelu"),
        source_length=config.whole("max_source_positions", 1500),
        target_length=config.whole("max_target_positions", 448),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [NAME],
        "model_type": "whisper",
        "vocab_size": sizes.vocab_size,
        "d_model": sizes.width,
        "num_mel_bins": sizes.mels,
        "activation_function": sizes.activation,
        "max_source_positions": sizes.source_length,
        "max_target_positions": sizes.target_length,
        "scale_embedding": False,
        "is_encoder_decoder": True,
        **encoder_decoders.write_stacks(sizes),
    }


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
    make_stack: Any = partial(
        encoder_decoders.make_stack,
        sizes,
        encoder_mask=masks.full(),
        make_bias=biases.zero_init_bias_of("b_q_HK", "b_v_GK", "b_o_D"),
    )
    return encoder_decoder.EncoderDecoder(
        make_encoder=partial(
            encoder.Encoder,
            make_embed=embed,
            make_stack=make_stack("encoder"),
        ),
        make_decoder=partial(
            decoder.Decoder,
            vocab_size=sizes.vocab_size,
            width=sizes.width,
            make_stack=make_stack("decoder"),
            make_position=partial(positions.Learned, length=sizes.target_length),
            make_norm=norms.LayerNorm,
        ),
    )


def init(net: encoder_decoder.EncoderDecoder, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    made: Any = net.make_encoder()
    embed = made.make_embed()
    length, mels = embed.make_position().length, embed.make_content().features
    raw_BLP, ids_BL = jnp.zeros((1, 2 * length, mels)), jnp.zeros((1, 1), jnp.int32)
    source, target = masks.single_document(length), masks.single_document(1)
    return net.init(key, raw_BLP, source, ids_BL, target)["params"]


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
        *decoders.affine("model.encoder.layer_norm", "encoder/final_norm"),
        *decoders.affine("model.decoder.layer_norm", "decoder/final_norm"),
    ]
    for side in encoder_decoders.SIDES:
        rules += encoder_decoders.stack_rules(side, f"{side}/stack", key_bias=False)
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
