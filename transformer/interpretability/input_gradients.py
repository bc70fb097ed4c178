"""Attribution by gradients of a prediction: class-specific, unlike attention."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def gradient_times_input(
    predict: Callable[[jax.Array], jax.Array], raw_BLP: Array, blank_P: Array
) -> jax.Array:
    """Gradient times input of each row's largest logit, summed over a patch's features
    (Shrikumar et al. 2016, arXiv 1605.01713): signed float32 (B, L). The input is
    relative to a blank patch.

    predict(raw_BLP): logits (B, V), each row's from its own patches.
    """

    def largest(raw_BLP: jax.Array) -> jax.Array:
        return predict(raw_BLP).max(-1).sum()

    gradient_BLP = jax.grad(largest)(raw_BLP)
    return jnp.sum(gradient_BLP * (raw_BLP - blank_P[None, None]), axis=-1)
