"""Which numbers are wide and which are narrow: the policy, in one place.

| what | dtype |
|---|---|
| parameters, gradients, optimizer state | float32 |
| products and the residual stream | the experiment's compute dtype |
| norm statistics and gains, attention scores and softmax | float32 |
| final logits, loss | float32 |

A model follows the dtype of its weights, so casting the parameter tree at the loss's
door is the whole policy; gradients come back float32 through the same cast.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from transformer.axes import leaf_name

CONTRACTED = "contracted"


def cast(params: Any, dtype: Any) -> Any:
    """`params` with weights in `dtype`; the norms' gains and biases stay float32."""

    def narrow(path: Any, leaf: jax.Array) -> jax.Array:
        wide = leaf_name(path).startswith(("gain_", "bias_"))
        return leaf if wide else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(narrow, params)


def product(subscripts: str, *operands: jax.Array) -> jax.Array:
    """`jnp.einsum` accumulated and returned in float32, for scores and logits."""
    return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)


def contract(subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """`jnp.einsum` of activations with weights, accumulated in float32, in x's dtype:
    every linear map of the network goes through here.

    Each letter of the subscripts must stand in two of its three parts, so that both
    gradients are einsums of the same letters. Its result bears the name `CONTRACTED`
    for remat policies.
    """
    return checkpoint_name(_contract(subscripts, x, w), CONTRACTED)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
    return product(subscripts, x, w).astype(x.dtype)


def _contract_forward(subscripts: str, x: jax.Array, w: jax.Array) -> Any:
    return _contract(subscripts, x, w), (x, w)


def _contract_backward(subscripts: str, factors: Any, slope: jax.Array) -> Any:
    """Both gradients, from operands as narrow as the forward product's: a float32 slope
    would drag the products of the backward pass, two thirds of all, to float32."""
    x, w = factors
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    x_slope = product(f"{result},{second}->{first}", slope, w)
    w_slope = product(f"{first},{result}->{second}", x, slope)
    return x_slope.astype(x.dtype), w_slope.astype(w.dtype)


_contract.defvjp(_contract_forward, _contract_backward)
