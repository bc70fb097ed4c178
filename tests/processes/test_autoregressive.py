"""Autoregression as a process against cached decoding."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import MODELS, random_params

from transformer.generation import decoding, logit_filters, process_sampler
from transformer.models import decoder
from transformer.network import masks
from transformer.processes import autoregressive

KEY = jax.random.key(0)


def test_generation_without_a_cache_equals_cached_decoding() -> None:
    """Greedily, after a prompt of one token."""
    module = MODELS[1].make()
    params = random_params(module)
    prompt_B1 = np.array([[3], [11]], np.int32)
    length = 12
    tokens = masks.single_document(length)

    def predict(ids_BL: jax.Array, t_B: jax.Array) -> jax.Array:
        shifted_BL = jnp.concatenate([prompt_B1, ids_BL[:, :-1]], axis=1)
        readout: Any = module.apply({"params": params}, shifted_BL, tokens)
        return decoder.logits(readout)

    process = autoregressive.process(choose=logit_filters.greedy)
    like = jax.ShapeDtypeStruct((2, length), jnp.int32)
    run = partial(process_sampler.sample, process, predict, like=like, steps=length)
    ids_BL = np.asarray(jax.jit(run)(KEY))
    cached = decoding.DecodeFns(
        lambda params, *rest: module.apply({"params": params}, *rest, method="decode"),
        lambda *sizes: module.empty_cache(*sizes, jnp.float32),
    )
    generate = partial(
        decoding.generate, cached, choose=logit_filters.greedy, new_tokens=12
    )
    state = jax.jit(generate)(params, prompt_B1, np.array([1, 1]), KEY)
    np.testing.assert_array_equal(ids_BL, np.asarray(state.ids_BL)[:, 1:])
    assert len(np.unique(ids_BL)) > 3
