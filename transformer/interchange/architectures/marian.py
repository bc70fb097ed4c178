"""Marian (Junczys-Dowmunt et al. 2018, arXiv 1804.00344), as OPUS-MT has it: an
encoder-decoder of post-norm blocks with sines as positions, one embedding of sources,
targets and readout, and a bias of the logits.

The table of sines is computed. A file may hold it, and then it must be this one.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, encoder_decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import encoder_decoder
from transformer.models.shared_encoder_decoder import SharedEncoderDecoder
from transformer.network import biases, masks, norms, positions
from transformer.network.block import post_norm

NAME = "MarianMTModel"
EMBEDDING = "model.shared.weight"
# Of training and generation only; generation_config.json is copied as it is.
HARMLESS = encoder_decoders.HARMLESS | frozenset(
    """_num_labels bad_words_ids classif_dropout forced_eos_token_id output_past prefix
    tokenizer_class unk_token_id
    """.split()
)
# What BART's configurations say, at the values of Marian.
ONLY: dict[str, tuple[Any, ...]] = {
    "architectures": ([NAME],),
    "share_encoder_decoder_embeddings": (True,),
    "tie_word_embeddings": (True,),
    "normalize_before": (False,),
    "normalize_embedding": (False,),
    "add_final_layer_norm": (False,),
    "add_bias_logits": (False,),
    "static_position_embeddings": (True,),
    "extra_pos_embeddings": (0,),
}


class Sizes(NamedTuple):
    """What a configuration says of the net. length: of a source or a target, at most.
    scaled: the embedding, by the root of the width."""

    vocab_size: int
    width: int
    encoder: encoder_decoders.StackSizes
    decoder: encoder_decoders.StackSizes
    activation: str
    length: int
    scaled: bool
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    for key, values in ONLY.items():
        config.only(key, *values)
    for key in HARMLESS:
        config.get(key, None)
    width = config.whole("d_model")
    if width % 2:
        raise config.error("d_model", "an even number")
    encoder_sizes = encoder_decoders.read_stack(config, "encoder", width)
    # transformers writes the encoder's depth a second time.
    config.only("num_hidden_layers", encoder_sizes.depth)
    vocab_size = config.whole("vocab_size")
    config.only("decoder_vocab_size", vocab_size)
    return Sizes(
        vocab_size=vocab_size,
        width=width,
        encoder=encoder_sizes,
        decoder=encoder_decoders.read_stack(config, "decoder", width),
        activation=decoders.read_activation(config, "activation_function", "gelu"),
        length=config.whole("max_position_embeddings", 1024),
        scaled=config.flag("scale_embedding", False),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [NAME],
        "model_type": "marian",
        "vocab_size": sizes.vocab_size,
        "decoder_vocab_size": sizes.vocab_size,
        "d_model": sizes.width,
        "activation_function": sizes.activation,
        "max_position_embeddings": sizes.length,
        "scale_embedding": sizes.scaled,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "is_encoder_decoder": True,
        **encoder_decoders.write_stacks(sizes),
    }


def net(sizes: Sizes) -> SharedEncoderDecoder:
    """The encoder-decoder."""
    make_stack: Any = partial(
        encoder_decoders.make_stack,
        sizes,
        encoder_mask=masks.segments(),
        make_bias=biases.zero_init_bias,
        residual=post_norm,
    )
    return SharedEncoderDecoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        make_encoder_stack=make_stack("encoder"),
        make_decoder_stack=make_stack("decoder"),
        make_norm=norms.Identity,
        make_position=partial(
            positions.FixedPositions,
            sizes.length,
            positions.split_sinusoids(sizes.length),
        ),
        make_logit_bias=biases.zero_init_bias,
        embedding_scale=math.sqrt(sizes.width) if sizes.scaled else 1.0,
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    rules = [
        Rule(EMBEDDING, "embedding_VD", "V D"),
        Rule("final_logits_bias", "b_V", "n V", axes="(n V)"),
    ]
    for side in encoder_decoders.SIDES:
        rules += encoder_decoders.stack_rules(side, f"{side}_stack", key_bias=True)
    made = decoders.table(rules, tied=True, embedding=EMBEDDING)
    sides = [f"model.{side}." for side in encoder_decoders.SIDES]
    tied = {f"{side}embed_tokens.weight": EMBEDDING for side in sides}
    sines = partial(positions.split_sinusoids(sizes.length), sizes.width)
    return made._replace(
        sizes={"n": 1},
        tied={**tied, **made.tied},
        computed={f"{side}embed_positions.weight": sines for side in sides},
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=encoder_decoder.init_params,
    table=table,
    name=lambda sizes: NAME,
)
