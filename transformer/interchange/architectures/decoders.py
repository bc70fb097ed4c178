"""What the decoders of this package have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from transformer.interchange.config import Reader
from transformer.interchange.table import Rule
from transformer.models import decoder
from transformer.network import masks, mlp, precision, stack
from transformer.network.block import Block, Make

# Kinds of layers: a window, all keys.
LOCAL, GLOBAL = "sliding_attention", "full_attention"
CAUSAL = decoder.CAUSAL_IN_DOCUMENT
ACTIVATIONS: Mapping[str, mlp.Activation] = {
    "gelu": mlp.exact_gelu,
    "gelu_new": mlp.gelu,
    "gelu_pytorch_tanh": mlp.gelu,
    "gelu_fast": mlp.gelu,
    "relu": mlp.relu,
    "silu": mlp.silu,
}


def read_activation(config: Reader, key: str, default: str) -> str:
    """The name of an activation that is expressed here."""
    config.choice(key, ACTIVATIONS, default)
    return config.get(key, default)


def window(size: int | None) -> masks.Mask:
    """The causal mask of `size` keys, the token itself included; all if None."""
    return CAUSAL if size is None else CAUSAL & masks.window(size - 1)


def read_layers(config: Reader, depth: int, *, period: int) -> tuple[str, ...]:
    """The kind of each layer, `LOCAL` or `GLOBAL`; the last of each `period` is global
    where they are not listed."""
    every = [GLOBAL if (i + 1) % period == 0 else LOCAL for i in range(depth)]
    layers = config.get("layer_types", every)
    known = isinstance(layers, list) and all(x in (LOCAL, GLOBAL) for x in layers)
    if not known or len(layers) != depth:
        raise config.error("layer_types", f"{depth} of {LOCAL}, {GLOBAL}")
    return tuple(layers)


def build(
    sizes: Any,
    *,
    slots: Callable[[int], dict[str, Any]],
    make_norm: Make,
    block: Any = Block,
    soft_cap: float | None = None,
    **options: Any,
) -> decoder.Decoder:
    """A decoder of `sizes` (vocab_size, width, depth, tied, scanned). slots(layer): of
    its block. soft_cap: of the logits. options: of `Decoder`."""
    unembed: Any = decoder.tied_unembedding
    if not sizes.tied:
        unembed = decoder.untied_unembedding
    if soft_cap is not None:
        unembed = decoder.with_transform(unembed, precision.SoftCap(soft_cap))
    return decoder.Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=sizes.depth,
            make_block=lambda block, layer: block(**slots(layer)),
            block=block,
        ),
        make_norm=make_norm,
        unembed=unembed,
        **options,
    )


def affine(theirs: str, ours: str) -> list[Rule]:
    """Rules of a LayerNorm's weight and bias."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/gain_D", "D"),
        Rule(f"{theirs}.bias", f"{ours}/bias_D", "D"),
    ]


def readout_rules(tied: bool, theirs: str = "lm_head.weight") -> list[Rule]:
    """The rule of an unembedding of its own, if it is not tied."""
    return [] if tied else [Rule(theirs, "unembedding_VD", "V D")]


def tied_names(tied: bool, original: str) -> dict[str, str]:
    """`lm_head.weight`, which files of tied models may hold again."""
    return {"lm_head.weight": original} if tied else {}
