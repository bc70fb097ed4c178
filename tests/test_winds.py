"""Fields against their climate: cutting, the climates that do not know the month, the
regression, and the forecast that the model adds to."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments import winds
from transformer.data import climate_fields
from transformer.data.records import Fields
from transformer.training import update

RNG = np.random.default_rng(0)
YEARS, TRAIN = 6, 5


def series(rows: int = 8, columns: int = 16) -> Fields:
    """Months that remember each other, on a small globe."""
    values = RNG.normal(size=(12 * YEARS, 2, rows, columns)).astype(np.float32)
    for month in range(1, len(values)):
        values[month] += 0.8 * values[month - 1]
    latitude = np.linspace(-80, 80, rows, dtype=np.float32)
    longitude = np.arange(columns, dtype=np.float32)
    time = np.arange(len(values))
    names = ("u", "v"), ("m/s", "m/s")
    return Fields("toy", "0", values, latitude, longitude, time, *names, 12 * TRAIN)


@pytest.fixture(scope="module")
def known() -> tuple[climate_fields.Climatology, np.ndarray, Fields]:
    fields = series()
    cut = climate_fields.patch_grid(fields)
    weight = climate_fields.area_weight(fields, cut)
    return climate_fields.fit_climatology(fields, cut, weight), weight, fields


def test_cutting_is_undone_and_added_rows_count_nothing() -> None:
    fields = series()
    cut = climate_fields.patch_grid(fields)
    assert cut == climate_fields.PatchGrid((2, 2), 2)
    raw = cut.cut(fields.values)
    assert raw.shape == (72, 4, 80)
    np.testing.assert_array_equal(cut.join(raw), fields.values)
    weight = climate_fields.area_weight(fields, cut)
    cosines = np.cos(np.deg2rad(fields.latitude))
    np.testing.assert_allclose(weight.sum(), 2 * 16 * cosines.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="multiple of 8 longitudes, got 12"):
        climate_fields.patch_grid(series(columns=12))


def test_no_climate_has_seen_its_month(known) -> None:
    """Changing a training year changes the climates of years two and more away only;
    changing a validation year changes none."""
    was, weight, fields = known

    def changed(year: int) -> list[bool]:
        values = fields.values.copy()
        values[12 * year : 12 * year + 12] += 1
        now = climate_fields.fit_climatology(
            fields._replace(values=values), cut, weight
        )
        apart = was.scale * was.means - now.scale * now.means
        return (np.abs(apart).max((1, 2, 3)) > 1e-3).tolist()

    cut = climate_fields.patch_grid(fields)
    assert changed(1) == [False, False, False, True, True, True]
    assert changed(5) == [False] * 6
    # The augmented climates of training, too.
    prepare = climate_fields.prepare_forecast(was)
    row = {"month": np.int32(12 * 2 + 3), "lead": np.int32(0)}
    seen = set()
    for seed in range(20):
        target = prepare(row, np.random.default_rng(seed))["target_BLP"]
        mean = was.values[27] - target
        for years in ((0,), (4,), (0, 4)):
            of_them = np.mean([was.values[12 * year + 3] for year in years], axis=0)
            if np.allclose(mean, of_them, atol=1e-5):
                seen.add(years)
                break
        else:
            raise AssertionError("the mean of years beside the month, or of no years")
    assert len(seen) > 1


def test_the_past_and_its_regression_are_their_formulae(known) -> None:
    was, weight, _ = known
    mean = was.means[-1]
    this = was.values[30] - mean[6]
    before = np.stack([was.values[m] - mean[m % 12] for m in range(19, 31)])
    got = climate_fields.anomaly_features(was.values, mean, 30)
    expected = [this, before[-3:].mean(0), before.mean(0)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    said = climate_fields.regression_forecast(was, 66, 1)
    read = climate_fields.anomaly_features(was.values, mean, 63)
    by_hand = sum(was.coefficients[1, i] * read[i] for i in range(3))
    np.testing.assert_allclose(said, by_hand, rtol=1e-5, atol=1e-6)
    # Months remember 0.8 of the one before: the regression finds it, and helps.
    assert 0.5 < np.average(was.coefficients[0, 0], weights=weight) < 1.0
    numbers = climate_fields.baseline_rmse(was, weight)
    assert numbers["rmse/regression/lead_1"] < numbers["rmse/climatology"]


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
