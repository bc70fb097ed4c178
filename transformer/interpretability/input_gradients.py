"""Attribution by the slopes of a prediction: unlike attention's, of one class."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def times_input(
    predict: Callable[[jax.Array], jax.Array], raw_BLP: Array, blank_P: Array
) -> jax.Array:
    """How much each token of raw patches raises its row's largest logit, were that
    linear between the patch and a blank: float32 (B, L), of either sign. Gradient times
    input (Shrikumar et al. 2016, arXiv 1605.01713), the input counted from the blank.

    predict(raw_BLP): logits (B, V), each row's from its own patches.
    """

    def largest(raw_BLP: jax.Array) -> jax.Array:
        return predict(raw_BLP).max(-1).sum()

    slope_BLP = jax.grad(largest)(raw_BLP)
    return jnp.sum(slope_BLP * (raw_BLP - blank_P[None, None]), axis=-1)
