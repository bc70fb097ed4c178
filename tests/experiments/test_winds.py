"""Forecasts of fields: what the model adds to the regression."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import winds
from experiments.reports import winds as study
from transformer.data import climate_fields
from transformer.training import optimizers, update


def test_an_untrained_model_is_the_regression_with_its_residuals() -> None:
    experiment = winds.experiment(width=32, depth=1, steps=2, dtype="float32")
    state = jax.jit(lambda: update.init_state(experiment))()
    evaluation = experiment.evaluations["lead_1"]
    batch = evaluation.batch(0, range(3))
    loss = jax.jit(evaluation.loss)(state.params, batch, jax.random.key(0))
    fields = experiment.data
    weight = climate_fields.area_weight(fields, climate_fields.patch_grid(fields))
    error = batch["target_BLP"] - batch["base_BLP"]
    assert error.shape == (3, 270, 80)
    sums = loss.sums
    squares = (np.square(error) * weight).sum()
    np.testing.assert_allclose(sums["squared_error"], squares, rtol=1e-4)
    residuals = batch["residual_BILP"]
    variance = (residuals.var(1, ddof=1) * weight).sum()
    np.testing.assert_allclose(sums["variance"], variance, rtol=1e-4)
    score = np.abs(residuals - error[:, None]).mean(1) - batch["distance_BLP"] / 2
    np.testing.assert_allclose(loss.total, (score * weight).sum(), rtol=1e-4)


def test_weight_decay_is_of_the_matrices() -> None:
    experiment = winds.experiment(width=32, depth=1, steps=2)
    shapes = jax.eval_shape(lambda: update.init_state(experiment)).params
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    zeros = jax.tree.map(np.zeros_like, ones)
    optimizer = experiment.optimizer
    change = jax.jit(lambda: optimizer.update(zeros, optimizer.init(ones), ones)[0])()
    decayed = [bool(np.any(leaf)) for leaf in jax.tree.leaves(change)]
    assert decayed == jax.tree.leaves(optimizers.is_decayed(ones))
    assert (sum(decayed), len(decayed)) == (14, 25)


def test_training_lowers_the_loss() -> None:
    experiment = winds.experiment(
        width=32, depth=1, steps=12, batch_size=8, members=4, learning_rate=3e-3
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *arrays: update.update(experiment, *arrays))
    losses = []
    for _ in range(experiment.steps):
        state, outcome = advance(state, experiment.batch(0, range(8)))
        losses.append(experiment.metrics(outcome.loss)["crps"])
    assert losses[-1] < 0.98 * losses[0]


def test_report_of_the_regression_has_the_error_of_that_baseline() -> None:
    fields = winds.field_source.load("winds")
    grid = climate_fields.patch_grid(fields)
    weight = climate_fields.area_weight(fields, grid)
    climate = climate_fields.fit_climatology(fields, grid, weight)
    _, splits = climate_fields.splits(climate, batch_size=8, members=2)

    def predict(batch, key):
        members = batch["base_BLP"][None] + jnp.swapaxes(batch["residual_BILP"], 0, 1)
        weights = batch["weight_B"][:, None, None] * weight[None]
        arrays = batch["distance_BLP"], batch["target_BLP"], weights
        return members, study.crps.crps_of_distance(members, *arrays)

    files = study.report(predict, splits, fields, climate, weight, jax.random.key(0))
    results = files["results.json"]
    for lead in climate_fields.LEAD_NAMES:
        expected = results[f"rmse/regression/{lead}"]
        np.testing.assert_allclose(results[f"rmse/{lead}"], expected, rtol=1e-4)
        expected = results[f"crps/regression/{lead}"]
        np.testing.assert_allclose(results[f"crps/{lead}"], expected, rtol=1e-4)
        normal = results[f"crps/regression_normal/{lead}"]
        assert 0.95 < normal / expected < 1.05
    assert 0 < results["crps/climatology"] < results["rmse/climatology"]
    panels = files["maps.png"].axes[:3]
    assert [axes.get_title() for axes in panels][0] == "anomaly"


@pytest.mark.slow
def test_own_series_with_land_trains_and_reports(tmp_path: Path, capsys) -> None:
    """252 months of 10 x 16 cells, some of them missing, some at times."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(252, 1, 10, 16)).astype(np.float32)
    values[:, :, 3:5, 2:9] = np.nan
    values[rng.random(252) < 0.2, :, 7, 7] = np.nan
    latitude, longitude = np.linspace(-80, 80, 10), np.arange(16)
    file = tmp_path / "ocean.npz"
    np.savez(file, values=values, latitude=latitude, longitude=longitude)
    experiment = winds.experiment(source=str(file), width=32, depth=1, steps=2)
    missing = np.isnan(values).sum()
    line = f"{missing:,} of {values.size:,} values are missing: anomalies of 0 as input"
    assert line in capsys.readouterr().out
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *arrays: update.update(experiment, *arrays))
    state, outcome = advance(state, experiment.batch(0, range(experiment.batch_size)))
    finite = jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), state.params)
    assert all(jax.tree.leaves(finite)) and np.isfinite(outcome.loss.total)
    files = experiment.report(state.params, jax.random.key(0))
    assert np.isfinite([*files["results.json"].values()]).all()


@pytest.mark.parametrize("width", [8, 48])
def test_a_width_that_no_heads_fill_is_refused(width: int) -> None:
    with pytest.raises(
        ValueError, match=f"width: expected a multiple of .*, got {width}"
    ):
        winds.experiment(width=width)
