"""Every model memorizes a batch of four rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from cases import MODELS, VOCAB_SIZE, Case, name_of
from kinds import KINDS


@pytest.mark.parametrize("case", [*MODELS, *KINDS], ids=name_of)
def test_four_rows_are_memorized(case: Case) -> None:
    module, batch = case.make(), case.batch(0)
    batch = {name: a[:4] for name, a in batch.items()}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params: Any) -> jax.Array:
        def mean(params: Any) -> jax.Array:
            loss = case.loss(module, params, batch)
            return loss.total / loss.weight

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            value, gradients = jax.value_and_grad(mean)(params)
            updates, state = optimizer.update(gradients, state)
            return (optax.apply_updates(params, updates), state), value

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, length=200)[1]

    init_params = jax.jit(partial(case.init_params, module))
    losses = np.asarray(train(init_params(jax.random.key(0))))
    assert 0.5 < losses[0] < np.log(VOCAB_SIZE) + 1
    assert losses[-1] < 0.05, losses[-1]
