"""The state of an optimizer in bfloat16, by stochastic rounding.

bfloat16 has 8 significant bits, so that rounding to the nearest loses a change below
2^-9 of a number. Adam's second moment falls by at most 1 - b2 of itself in a step:
rounded to the nearest it never falls where b2 is 0.999. A number between two of
bfloat16 becomes either, with the probabilities that make it the mean (Gupta et al.
2015, arXiv 1502.02551, section 3): a small change is made now and then, and the moments
are as expected. What remains is noise: up to 2^-8 of a number in each step, over the
steps that a moment remembers. State in bfloat16, with float32 parameters, is that of
DeepSeek-V3 (2024, arXiv 2412.19437, section 3.3.2), whose b2 is 0.95.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transformer import axes


class NarrowState(NamedTuple):
    """The state of the optimizer, its moments in a narrow dtype, and the number of
    updates, from which the noise of each follows."""

    inner: Any
    count: jax.Array


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 to one of the two nearest bfloat16, whose expectation is x; bfloat16
    numbers, infinities and NaN to themselves."""
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # The lower half of the bits is the distance from the number below, in magnitude.
    upper = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) >> 16
    rounded = jax.lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def keep_in_bfloat16(optimizer: Any, *, seed: int) -> optax.GradientTransformation:
    """`optimizer` with its moments, the arrays of its state that bear the name of a
    parameter, in bfloat16 between updates. An update computes in float32."""

    def init(params: Any) -> NarrowState:
        state = optimizer.init(params)
        return NarrowState(_of_moments(_narrow, state), jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        wide = _of_moments(lambda _, leaf: leaf.astype(jnp.float32), state.inner)
        change, inner = optimizer.update(updates, wide, params)
        key = jax.random.fold_in(jax.random.key(seed), state.count)

        def narrow(path: str, leaf: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            is_wide = leaf.dtype == jnp.float32
            return stochastic_round(leaf, own) if is_wide else leaf

        return change, NarrowState(_of_moments(narrow, inner), state.count + 1)

    return optax.GradientTransformation(init, update)


def _narrow(path: str, leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.bfloat16)


def _of_moments(change: Callable[[str, jax.Array], jax.Array], state: Any) -> Any:
    """`state` with change(path, leaf) of each moment."""

    def of_leaf(path: Any, leaf: jax.Array) -> jax.Array:
        named = axes.dimensions(axes.leaf_name(path))
        if not (named and jnp.issubdtype(leaf.dtype, jnp.floating)):
            return leaf
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return change(name, leaf)

    return jax.tree_util.tree_map_with_path(of_leaf, state)
