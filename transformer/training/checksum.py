"""Checksums of arrays that do not depend on their sharding."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def leaf_paths(tree: Any) -> dict[str, Any]:
    """Every leaf of `tree` under its path: "layer/w_up_DF"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksums(tree: Any) -> dict[str, int]:
    """For each leaf's path an unsigned 32-bit sum over its elements' bits, each mixed
    with its position.

    Addition of integers does not depend on order, so neither mesh nor number of
    processes change it. A change of one element always does, since the mixing is a
    bijection; any other goes unnoticed once in 2**32. Blocks until `tree` is computed.
    """
    named = leaf_paths(tree)
    if not named:
        return {}
    everywhere = None
    for leaf in named.values():
        if isinstance(getattr(leaf, "sharding", None), NamedSharding):
            everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    sums = jax.jit(_sums, out_shardings=everywhere)(list(named.values()))
    return dict(zip(named, map(int, jax.device_get(sums)), strict=True))


def _sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(x) for x in leaves])


def _sum(x: jax.Array) -> jax.Array:
    bits = _bits(x)
    position = jnp.zeros(bits.shape, jnp.uint32)
    for i in range(bits.ndim):
        stride = math.prod(bits.shape[i + 1 :]) % 2**32
        place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, i)
        position = position + place * np.uint32(stride)
    return jnp.sum(_mix(bits ^ _mix(position + np.uint32(1))), dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """The elements' bits as uint32; elements of 8 bytes give two of them."""
    if jnp.issubdtype(x.dtype, jnp.bool_):
        return x.astype(jnp.uint32)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag])
    size = min(x.dtype.itemsize, 4)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[size]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each input bit moves about half of the output
    bits (the finalizer of MurmurHash3, Appleby 2011)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
