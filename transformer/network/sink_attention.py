"""Softmax attention with a sink: a learned score of each head that takes part in the
softmax and has no value, so that a head may attend to nothing.

Xiao et al. 2023, arXiv 2309.17453, section 3.3; gpt-oss, OpenAI 2025, arXiv 2508.10925.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.network import attention


def sink_weights(scores_BHLM: jax.Array, sink_H: jax.Array) -> jax.Array:
    """exp(scores) over the sum of them and of exp(sink): each row sums to less than 1.
    scores: -inf where a pair is not allowed."""
    sink_BHLM = sink_H.astype(jnp.float32)[None, :, None, None]
    max_BHLM = jnp.maximum(scores_BHLM.max(-1, keepdims=True), sink_BHLM)
    max_BHLM = jax.lax.stop_gradient(max_BHLM)
    exp_BHLM = jnp.exp(scores_BHLM - max_BHLM)
    total_BHLM = exp_BHLM.sum(-1, keepdims=True) + jnp.exp(sink_BHLM - max_BHLM)
    return exp_BHLM / total_BHLM


class SinkAttention(nn.Module):
    """The mixer, with the parameter sink_H. Sows `weights_BHLM` in `intermediates`.

    It has the whole attention matrix in memory: for long rows a kernel is missing.
    """

    sink_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        *,
        in_order: bool,
        **score: Any,
    ) -> jax.Array:
        """As `attention.SoftmaxAttention`; score: of `attention.masked_scores`."""
        sink_H = self.param("sink_H", self.sink_init, q_BLHK.shape[2:3])
        scores_BHLM = attention.masked_scores(q_BLHK, k_BMGK, **score)
        weights_BHLM = sink_weights(scores_BHLM, sink_H)
        self.sow("intermediates", "weights_BHLM", weights_BHLM)
        return attention.mix_values(weights_BHLM, v_BMGK)
