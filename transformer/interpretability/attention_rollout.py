"""Attention rollout: how much of each input token reaches each token of the last layer
if information flows as attention and the residual stream let it (Abnar and Zuidema
2020, arXiv 2005.00928, section 3).

It knows where a model looks and not what for: it is the same for every class. Whether
it says what a prediction rests on is for `erasing.py` to find out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.axes import leaf_name

SOWN = "weights_BHLM"
SELF_ATTENTION = "attention"


def self_attention(intermediates: Any) -> list[jax.Array]:
    """The attention matrices (B, H, L, L) of a stack's layers, the first one first, out
    of the collection `intermediates` of `apply(..., mutable="intermediates")`.

    Of a stack unrolled or scanned; cross-attention is left out. ValueError where there
    are none, or of two stacks that read rows of different lengths: give one's subtree.
    """
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(intermediates)[0]:
        names = [str(key.key) for key in path if hasattr(key, "key")]
        if leaf_name(path) == SOWN and SELF_ATTENTION in names:
            place = [_natural(name) for name in names]
            layers = list(leaf) if leaf.ndim == 5 else [leaf]
            found.append((place, layers))
    ordered = sorted(found, key=lambda pair: pair[0])
    matrices = [matrix for _, layers in ordered for matrix in layers]
    shapes = {(len(matrix), *matrix.shape[2:]) for matrix in matrices}
    if len(shapes) != 1 or len({*next(iter(shapes))[1:]}) != 1:
        got = ", ".join(map(str, sorted(shapes))) or "none"
        raise ValueError(
            f"expected {SOWN} of layers of one shape (rows, length, length), got {got}"
        )
    return matrices


def _natural(name: str) -> list[tuple[int, str]]:
    """For sorting: layers_2 before layers_10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def rollout(layers: Sequence[jax.Array], *, residual: float = 0.5) -> jax.Array:
    """Shares (B, L, M), float32: of what token l of the last layer holds, how much came
    from input token m. Rows sum to 1.

    layers: attention matrices (B, H, L, M), the first layer first. residual: the share
    of each layer's output that is its own input; the heads' mean has the rest. The
    paper's equation 1, A' = residual I + (1 - residual) A with rows made to sum to 1,
    multiplied layer by layer: A'_N ... A'_2 A'_1. A token that may see nothing keeps
    itself.
    """
    length = layers[0].shape[-1]
    own_BLM = jnp.eye(length)[None]
    shares_BLM = jnp.broadcast_to(own_BLM, (len(layers[0]), length, length))
    for weights_BHLM in layers:
        mean_BLM = weights_BHLM.astype(jnp.float32).mean(1)
        mixed_BLM = residual * own_BLM + (1 - residual) * mean_BLM
        step_BLM = mixed_BLM / mixed_BLM.sum(-1, keepdims=True)
        shares_BLM = step_BLM @ shares_BLM
    return shares_BLM
