"""A model that says several things: its members differ by a noise that it is given.

The noise is part of the condition that adaptive norms follow, one draw for the whole
sequence, so that a member is one consistent world and not a field of independent
errors (as in FGN, Alet et al. 2025, arXiv 2506.10772).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from transformer.network import masks
from transformer.network.block import Given


def drawn(
    net: Any,
    params: Any,
    raw_BLP: jax.Array,
    told_BJ: jax.Array,
    key: jax.Array,
    *,
    members: int,
    noise: int,
) -> jax.Array:
    """`members` outputs (I, B, L, P) of a `Tagger` that reads raw patches under a
    condition: what it is told, then `noise` features of noise."""
    rows = told_BJ.shape[0]
    noise_IBJ = jax.random.normal(key, (members, rows, noise))
    told_IBJ = jnp.broadcast_to(told_BJ[None], (members, *told_BJ.shape))
    condition_IBJ = jnp.concatenate([told_IBJ, noise_IBJ], axis=-1)
    condition_BLJ = condition_IBJ.reshape(members * rows, 1, -1)
    repeated_BLP = jnp.tile(raw_BLP, (members, 1, 1))
    given = Given(condition_BLJ=condition_BLJ)
    tokens = masks.row(raw_BLP.shape[1])
    out_BLP = net.apply({"params": params}, repeated_BLP, tokens, given)
    return out_BLP.reshape(members, rows, *out_BLP.shape[1:])


def initial(net: Any, key: jax.Array, *, shape: tuple[int, int], condition: int) -> Any:
    """The parameters for sequences of `shape` (L, P) under so many features of
    condition."""
    raw_BLP = jnp.zeros((1, *shape))
    given = Given(condition_BLJ=jnp.zeros((1, 1, condition)))
    return net.init(key, raw_BLP, masks.row(shape[0]), given)["params"]
