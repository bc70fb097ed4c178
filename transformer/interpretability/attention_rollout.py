"""Attention rollout: how much of each input token reaches each token of the last layer,
if information flows through attention and residual stream only (Abnar and Zuidema
2020, arXiv 2005.00928, section 3).

It is the same for every class. `deletion.py` measures whether a prediction depends on
the tokens that it ranks highest.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def rollout(layers: Sequence[jax.Array], *, residual: float = 0.5) -> jax.Array:
    """Fractions (B, L, M), float32, of token l of the last layer that come from input
    token m. Rows sum to 1.

    layers: attention weights (B, H, L, M), the first layer first. residual: the
    fraction of each layer's output that is its input; the mean of the heads has the
    rest. The paper's equation 1, A' = residual I + (1 - residual) A with normalized
    rows, multiplied over layers: A'_N ... A'_2 A'_1. A token without any attention
    keeps itself.
    """
    length = layers[0].shape[-1]
    identity_BLM = jnp.eye(length)[None]
    rollout_BLM = jnp.broadcast_to(identity_BLM, (len(layers[0]), length, length))
    for weights_BHLM in layers:
        mean_BLM = weights_BHLM.astype(jnp.float32).mean(1)
        mixed_BLM = residual * identity_BLM + (1 - residual) * mean_BLM
        layer_BLM = mixed_BLM / mixed_BLM.sum(-1, keepdims=True)
        rollout_BLM = layer_BLM @ rollout_BLM
    return rollout_BLM
