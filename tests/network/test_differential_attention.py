"""Differential attention (Ye et al. 2024, arXiv 2410.05258) as an extender writes it: a
mixer with parameters of its own, in a language model."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from transformer.models import decoder, defaults
from transformer.network import attention, contract, masks, norms, positions, stack


class Differential(nn.Module):
    """(softmax(q1 k1) - lambda softmax(q2 k2)) V, normalized per head (equations 1 to
    3). Heads 2i and 2i + 1 are q1 and q2 of head i, and together its value."""

    layer: int

    @nn.compact
    def __call__(self, q_BLHK: Any, k_BMGK: Any, v_BMGK: Any, **where: Any) -> Any:
        lambda_init = 0.8 - 0.6 * jnp.exp(-0.3 * self.layer)
        init, shape = nn.initializers.normal(0.1), q_BLHK.shape[-1:]
        q1_K, k1_K, q2_K, k2_K = (
            self.param(f"lambda_{n}_K", init, shape) for n in ("q1", "k1", "q2", "k2")
        )
        factor = jnp.exp(q1_K @ k1_K) - jnp.exp(q2_K @ k2_K) + lambda_init
        v_BMGK = v_BMGK.reshape(*v_BMGK.shape[:2], -1, 2 * v_BMGK.shape[-1])
        first_BLHK, second_BLHK = (
            attention.SoftmaxAttention()(
                q_BLHK[:, :, i::2], k_BMGK[:, :, i::2], v_BMGK, **where
            )
            for i in (0, 1)
        )
        y_BLHK = norms.HeadRMSNorm(epsilon=1e-5)(first_BLHK - factor * second_BLHK)
        y_BLHK = ((1 - lambda_init) * y_BLHK).reshape(q_BLHK.shape)
        return y_BLHK.astype(v_BMGK.dtype)


def make_block(make: Any, layer: int) -> Any:
    slots = {"make_mixer": partial(Differential, layer), "rotate": positions.rotary()}
    make_attention = partial(attention.Attention, 32, 4, 4, 8, masks.causal(), **slots)
    return make(make_attention, defaults.mlp(width=32), defaults.make_norm)


def test_differential_attention_keeps_the_contract() -> None:
    contract.check_block(make_block, width=32)


@pytest.mark.slow
def test_a_language_model_with_differential_attention_trains() -> None:
    net = decoder.Decoder(16, 32, partial(stack.UnrolledStack, 2, make_block))
    ids_BL, tokens = jnp.arange(32)[None] % 7, masks.single_document(32)
    adam = optax.adam(1e-2)

    def loss(params: Any) -> jax.Array:
        logits_BLV = decoder.logits(net.apply({"params": params}, ids_BL, tokens))
        log_p_BLV = jax.nn.log_softmax(logits_BLV)
        return -log_p_BLV[0, jnp.arange(31), ids_BL[0, 1:]].mean()

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    params = jax.jit(net.init)(jax.random.key(0), ids_BL, tokens)["params"]
    state, losses = adam.init(params), []
    for _ in range(31):
        params, state, loss_before = step(params, state)
        losses.append(loss_before)
    assert losses[-1] < 0.1 * losses[0]
