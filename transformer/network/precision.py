"""Which numbers are wide and which are narrow: the policy, in one place.

| what | dtype |
|---|---|
| parameters, gradients, optimizer state | float32 |
| products and the residual stream | the experiment's compute dtype |
| norm statistics and gains, attention scores and softmax | float32 |
| final logits, loss | float32 |
| one row that is decoded on a CPU | float32 |

A model follows the dtype of its weights, so casting the parameter tree at the loss's
door is the whole policy; gradients come back float32 through the same cast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from transformer.axes import leaf_name

# (subscripts, a, b, dtype=float32): `product`, or another library's in its place.
Product = Callable[..., jax.Array]

CONTRACTED = "contracted"


def cast(params: Any, dtype: Any) -> Any:
    """`params` with weights in `dtype`; the norms' gains and biases stay float32."""

    def narrow(path: Any, leaf: jax.Array) -> jax.Array:
        wide = leaf_name(path).startswith(("gain_", "bias_"))
        return leaf if wide else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(narrow, params)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def narrowed(x: jax.Array, dtype: Any) -> jax.Array:
    """`x.astype(dtype)`, to the bit. On a CPU float32 becomes bfloat16 by integers:
    XLA's own rounding keeps a kernel from the full width of the machine, so that one
    with an exp in it takes two to four times as long."""
    if (x.dtype, dtype) != (jnp.float32, jnp.bfloat16):
        return x.astype(dtype)
    return jax.lax.platform_dependent(
        x, cpu=_rounded, default=lambda wide: wide.astype(jnp.bfloat16)
    )


def _rounded(x: jax.Array) -> jax.Array:
    """float32 to the nearest bfloat16, of two as near to the even one."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # What a NaN would be carried over to may be a number.
    bits = jnp.where(x == x, nearest, 0x7FC0).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)


narrowed.defvjp(
    lambda x, dtype: (narrowed(x, dtype), jnp.zeros((), x.dtype)),
    lambda dtype, like, slope: (slope.astype(like.dtype),),
)


def product(
    subscripts: str, *operands: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """`jnp.einsum` accumulated in float32 and returned in `dtype`: float32 for scores
    and logits."""
    wide = jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)
    return wide.astype(dtype)


def contract(
    subscripts: str, x: jax.Array, w: jax.Array, *, product: Product = product
) -> jax.Array:
    """`jnp.einsum` of activations with weights, accumulated in float32, in x's dtype:
    every linear map of the network goes through here.

    Each letter of the subscripts must stand in two of its three parts, so that both
    gradients are einsums of the same letters; `product` makes all three. Its result
    bears the name `CONTRACTED` for remat policies.
    """
    return checkpoint_name(_contract(product, subscripts, x, w), CONTRACTED)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _contract(
    product: Product, subscripts: str, x: jax.Array, w: jax.Array
) -> jax.Array:
    return product(subscripts, x, w, dtype=x.dtype)


def _contract_forward(
    product: Product, subscripts: str, x: jax.Array, w: jax.Array
) -> Any:
    return _contract(product, subscripts, x, w), (x, w)


def _contract_backward(
    product: Product, subscripts: str, factors: Any, slope: jax.Array
) -> Any:
    """Both gradients, from operands as narrow as the forward product's: a float32 slope
    would drag the products of the backward pass, two thirds of all, to float32."""
    x, w = factors
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    x_slope = product(f"{result},{second}->{first}", slope, w, dtype=x.dtype)
    w_slope = product(f"{first},{result}->{second}", x, slope, dtype=w.dtype)
    return x_slope, w_slope


_contract.defvjp(_contract_forward, _contract_backward)
