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

from typing import Any

import jax
import jax.numpy as jnp

from transformer.axes import leaf_name


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
    every linear map of the network goes through here."""
    return product(subscripts, x, w).astype(x.dtype)
