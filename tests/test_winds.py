"""Fields against their climate: cutting, the climates that do not know the month, the
regression, and the forecast that the model adds to."""

from __future__ import annotations

import jax
import numpy as np

from experiments import winds
from transformer.data import climate_fields
from transformer.training import update


def test_an_untrained_model_says_the_regression(known) -> None:
    experiment = winds.experiment(width=32, depth=1, steps=2, dtype="float32")
    state = jax.jit(lambda: update.init_state(experiment))()
    evaluation = experiment.evaluations["lead_1"]
    batch = evaluation.batch(0, range(12))
    loss = jax.jit(evaluation.loss)(state.params, batch, jax.random.key(0))
    expected = np.square(batch["target_BLP"] - batch["base_BLP"])
    assert float(loss.sums["variance"]) < 1e-6 * float(loss.sums["squared_error"])
    cosine = float(loss.sums["weight"]) / 12
    assert expected.shape == (12, 270, 80) and cosine > 0
    fields = winds.field_source.load("winds")
    weight = climate_fields.area_weight(fields, climate_fields.patch_grid(fields))
    np.testing.assert_allclose(
        loss.sums["squared_error"], (expected * weight).sum(), rtol=1e-4
    )


def test_training_lowers_the_loss_and_members_part() -> None:
    experiment = winds.experiment(
        width=32, depth=1, steps=12, batch_size=8, members=2, rate=3e-3
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    said = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(8)))
        said.append(experiment.metrics(told.loss))
    assert 10 * said[0]["spread"] < said[-1]["spread"]
    first, last = (np.mean([r["crps"] for r in part]) for part in (said[:3], said[-3:]))
    assert last < first
