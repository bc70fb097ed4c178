"""Attention weights of all layers, as a model sows them with
`apply(..., mutable="intermediates")`."""

from __future__ import annotations

from typing import Any

import jax

from transformer.axes import sown_arrays

SOWN = "weights_BHLM"


def _weights(intermediates: Any, module: str) -> list[jax.Array]:
    try:
        return sown_arrays(intermediates, SOWN, within=module)
    except ValueError as error:
        raise ValueError(
            f"expected {module} modules that sow {SOWN}, got none: this model's "
            f"{module} sows no attention weights"
        ) from error


def self_attention_weights(intermediates: Any) -> list[jax.Array]:
    """Self-attention weights (B, H, L, L) of the layers of a stack, unrolled or
    scanned, the first layer first.

    ValueError where the attention modules sow none, and for two stacks with rows of
    different lengths: pass the subtree of one.
    """
    layers = _weights(intermediates, "attention")
    shapes = {(len(layer), *layer.shape[2:]) for layer in layers}
    if len(shapes) != 1 or len({*next(iter(shapes))[1:]}) != 1:
        got = ", ".join(map(str, sorted(shapes)))
        raise ValueError(
            f"expected {SOWN} of layers of one shape (rows, length, length), got {got}"
        )
    return layers


def cross_attention_weights(intermediates: Any) -> list[jax.Array]:
    """Cross-attention weights (B, H, L, M) of the layers of a decoder, unrolled or
    scanned, the first layer first. ValueError where they sow none."""
    return _weights(intermediates, "cross_attention")
