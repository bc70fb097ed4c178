"""Anomalies of fields: patches, climatologies without the month, the regression."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from transformer.data import cell_regression, climate_fields
from transformer.data.records import Fields

RNG = np.random.default_rng(0)
YEARS, TRAIN = 6, 5


def series(rows: int = 8, columns: int = 16) -> Fields:
    """An autoregressive series of months on a small globe."""
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


def test_join_inverts_cut_and_padding_has_no_weight() -> None:
    fields = series()
    cut = climate_fields.patch_grid(fields)
    assert cut == climate_fields.PatchGrid((2, 2), 2)
    raw = cut.patchify(fields.values)
    assert raw.shape == (72, 4, 80)
    np.testing.assert_array_equal(cut.unpatchify(raw), fields.values)
    weight = climate_fields.area_weight(fields, cut)
    cosines = np.cos(np.deg2rad(fields.latitude))
    np.testing.assert_allclose(weight.sum(), 2 * 16 * cosines.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="multiple of 8 longitudes, got 12"):
        climate_fields.patch_grid(series(columns=12))


def test_no_climatology_includes_its_own_month(known) -> None:
    """A change of a training year changes only the means of years two and more away; a
    change of a validation year changes none."""
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
    # The random means of training, too.
    prepare = climate_fields.prepare_forecast(was, 2)
    row: Any = {"step": np.int32(12 * 2 + 3), "lead": np.int32(0)}
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


def test_features_and_regression_equal_their_formulas(known) -> None:
    was, weight, _ = known
    mean = was.means[-1]
    anomaly = was.values - mean[np.arange(len(was.values)) % 12]
    for number, lead in enumerate(climate_fields.LEADS):
        now = 66 - lead
        last = anomaly[now], anomaly[now - 2 : now + 1], anomaly[now - 11 : now + 1]
        expected = [last[0], last[1].mean(0), last[2].mean(0), anomaly[53:56].mean(0)]
        got = cell_regression.features(anomaly[cell_regression.past(66, lead, 12)])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        forecast = climate_fields.regression_forecast(was, 66, number)
        slopes = was.regressions[number].coefficients
        by_hand = sum(slopes[i] * expected[i] for i in range(4))
        np.testing.assert_allclose(forecast, by_hand, rtol=1e-5, atol=1e-6)
    # The autoregression is 0.8: the regression finds it, and lowers the error.
    assert 0.5 < np.average(was.regressions[0].coefficients[0], weights=weight) < 1.0
    numbers = climate_fields.baseline_rmse(was, weight)
    assert numbers["rmse/regression/lead_1"] < numbers["rmse/climatology"]


def test_residuals_are_what_the_regression_leaves(known) -> None:
    was, weight, _ = known
    regression, mean = was.regressions[1], was.means
    inside = weight > 0
    errors = []
    for step in regression.steps:
        past, year = cell_regression.past(int(step), 3, 12), step // 12
        known_anomalies = was.values[past] - mean[year][past % 12]
        features = cell_regression.features(known_anomalies)
        forecast = (regression.coefficients * features).sum(0)
        errors.append(was.values[step] - mean[year][step % 12] - forecast)
    errors = np.stack(errors)
    assert regression.steps.tolist() == list(range(14, 60))
    centered = errors - errors.mean(0)
    np.testing.assert_allclose(regression.residuals, centered, atol=1e-5)
    np.testing.assert_allclose(
        regression.deviation[inside], errors.std(0)[inside], atol=1e-5
    )
    apart = np.abs(centered[:, None] - centered[None]).sum((0, 1)) / (46 * 45)
    np.testing.assert_allclose(regression.distance, apart, atol=1e-5)


def test_members_of_training_are_residuals_of_other_years(known) -> None:
    was, _, _ = known
    prepare = climate_fields.prepare_forecast(was, 40)
    row: Any = {"step": np.int32(30), "lead": np.int32(0)}
    members = prepare(row, np.random.default_rng(0))["residual_BILP"]
    regression = was.regressions[0]
    own = [n for n, step in enumerate(regression.steps) if step // 12 == 2]
    same = (members[:, None] == regression.residuals[None]).all((2, 3))
    assert same.any(1).all() and len(own) == 12 and not same[:, own].any()
    row = {"step": np.int32(60), "lead": np.int32(0)}
    members = prepare(row, np.random.default_rng(0))["residual_BILP"]
    np.testing.assert_array_equal(members, regression.residuals)


def test_patch_mean_is_of_one_variable_over_seen_cells() -> None:
    """Two patches of three cells and two variables; those not seen are 0."""
    array = np.array([[1.0, 10, 2, 0, 6, 50], [4, 0, 4, 0, 7, 0]])
    seen = np.array([[1, 1, 1, 0, 1, 1], [1, 0, 1, 0, 1, 0]], bool)
    expected = [[3, 30] * 3, [5, 0] * 3]
    got = cell_regression.patch_mean(array, seen, 2)
    np.testing.assert_array_equal(got, expected)
    pairs = np.stack([array, 2 * array], -1)
    got = cell_regression.patch_mean(pairs, seen, 2)
    np.testing.assert_array_equal(got[..., 1], 2 * np.array(expected))


def months(count: int, **changed: Any) -> Fields:
    """A series of `count` months, its training steps as a file's are."""
    values = np.random.default_rng(1).normal(size=(count, 1, 10, 16))
    facts: dict[str, Any] = {
        "values": values.astype(np.float32),
        "latitude": np.linspace(-80, 80, 10, dtype=np.float32),
        "longitude": np.arange(16, dtype=np.float32),
        "time": np.arange(count),
        "train_steps": round(0.95 * count),
        **changed,
    }
    return Fields("own.npz", "0", variables=("t",), units=("K",), **facts)


def fit(fields: Fields) -> tuple[climate_fields.Climatology, np.ndarray, Fields]:
    fields = climate_fields.whole_years(fields)
    grid = climate_fields.patch_grid(fields)
    weight = climate_fields.area_weight(fields, grid)
    return climate_fields.fit_climatology(fields, grid, weight), weight, fields


def test_every_length_has_whole_years_or_is_refused() -> None:
    for count in range(2, 601):
        fields = months(count, values=np.zeros((count, 1, 1, 1), np.float32))
        if count < 60:
            with pytest.raises(ValueError, match="60 steps of a month, got") as caught:
                climate_fields.whole_years(fields)
            assert "\n" not in str(caught.value)
            continue
        train = climate_fields.whole_years(fields).train_steps
        assert train % 12 == 0 and train >= 48 and count - train >= 12
        # No more than a year is taken from training, beside what validation needs.
        assert train > min(fields.train_steps, count - 12) - 12


@pytest.mark.parametrize("count", [60, 61, 71, 72, 83, 252])
def test_series_of_any_length_have_finite_batches_and_baselines(count: int) -> None:
    climate, weight, _ = fit(months(count))
    train, held_out = climate_fields.splits(climate, batch_size=4, members=2)
    batches = [train.batch(step, range(4)) for step in range(6)]
    for split in held_out.values():
        batches += [split.batch(step, range(12)) for step in range(split.batches)]
    assert all(np.isfinite(a).all() for batch in batches for a in batch.values())
    assert all((batch["area_BLP"].sum((1, 2)) > 0).all() for batch in batches)
    _, others = climate_fields.validation_anomalies(climate)
    assert others.shape[:2] == (climate.train_steps // 12, count - climate.train_steps)
    numbers = climate_fields.baseline_rmse(climate, weight)
    assert np.isfinite([*numbers.values()]).all()


def test_missing_values_equal_those_that_are_not_there() -> None:
    """Land, and a cell that is missing at times, against NumPy's functions of NaN."""
    full = months(84)
    values = full.values.copy()
    values[:, :, 3, :8] = np.nan
    rng = np.random.default_rng(2)
    values[rng.random(84) < 0.3, :, 4, 4] = np.nan
    climate, weight, fields = fit(full._replace(values=values))
    grid = climate_fields.patch_grid(fields)
    raw = grid.patchify(values).astype(np.float64)
    yearly = raw[: climate.train_steps].reshape(-1, 12, *raw.shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of nothing
        mean = np.nanmean(yearly, 0)
        others = np.nanmean(yearly[3:], 0)
    np.testing.assert_allclose(climate.scale * climate.means[-1], mean, atol=1e-5)
    np.testing.assert_allclose(climate.scale * climate.means[1], others, atol=1e-5)
    anomalies = raw - mean[np.arange(len(raw)) % 12]
    part = anomalies[: climate.train_steps]
    seen = np.isfinite(part)
    weights = np.broadcast_to(weight, part.shape)[seen]
    scale = np.sqrt(np.average(np.square(part[seen]), weights=weights))
    np.testing.assert_allclose(climate.scale, scale, rtol=1e-5)
    held = anomalies[climate.train_steps :]
    seen = np.isfinite(held)
    weights = np.broadcast_to(weight, held.shape)[seen]
    numbers = climate_fields.baseline_rmse(climate, weight)
    expected = np.sqrt(np.average(np.square(held[seen]), weights=weights))
    np.testing.assert_allclose(numbers["rmse/climatology"], expected, rtol=1e-5)
    # Inputs of what is missing are 0, and its target has no weight.
    _, held_out = climate_fields.splits(climate, batch_size=4, members=2)
    batch = held_out["lead_1"].batch(0, range(12))
    assert all(np.isfinite(array).all() for array in batch.values())
    missing = ~np.isfinite(held[:12])
    assert missing.any() and not batch["area_BLP"][missing].any()
    assert (batch["area_BLP"] > 0).sum() == (~missing & (weight > 0)).sum()
    cells = weight.size
    land: Any = np.isnan(raw).all(0)
    assert (
        not batch["raw_BLP"]
        .reshape(12, len(weight), 5, -1)[:, :, :4][
            np.broadcast_to(land[:, None], (12, len(weight), 4, cells // len(weight)))
        ]
        .any()
    )
    for regression in climate.regressions:
        assert all(np.isfinite(array).all() for array in regression)
        assert (regression.deviation > 0).all()


def test_what_is_missing_does_not_matter_for_the_regression() -> None:
    """Cells without a value change neither the slopes of the others nor their prior."""
    full = months(72)
    land = full.values.copy()
    land[:, :, :5] = np.nan
    known, _, _ = fit(full._replace(values=land))
    half = full._replace(values=full.values[:, :, 5:], latitude=full.latitude[5:])
    alone, _, _ = fit(half)
    np.testing.assert_allclose(known.scale, alone.scale, rtol=1e-5)
    for of_all, of_sea in zip(known.regressions, alone.regressions, strict=True):
        for name in ("coefficients", "deviation", "residuals"):
            part = getattr(of_all, name)[..., 2:, :]
            expected = getattr(of_sea, name)
            np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)


def test_days_have_a_smooth_climatology_of_other_years() -> None:
    """A yearly cycle and a trend: each mean is that of its years, and its noise that of
    31 days of each."""
    time = np.arange("2001-01-01", "2007-01-01", dtype="datetime64[D]")
    day = np.array([str(date)[5:] != "02-29" for date in time])
    season = (time - time.astype("datetime64[Y]")).astype(int)
    cycle = 10 * np.sin(2 * np.pi * season / 365)
    noise = np.random.default_rng(0).normal(size=(len(time), 1, 5, 8))
    values = (cycle[:, None, None, None] + noise).astype(np.float32)
    latitude = np.zeros(5, np.float32)
    facts = {"time": time, "latitude": latitude, "longitude": np.arange(8.0)}
    climate, weight, fields = fit(months(len(time), values=values, **facts))
    assert climate.year == 365 and day.sum() == len(fields.values) == 6 * 365
    assert climate.train_steps == 5 * 365 and fields.time[-1] == time[-1]
    yearly = fields.values[: climate.train_steps].reshape(5, 365, *values.shape[1:])
    window = (np.arange(365)[:, None] + np.arange(-15, 16)) % 365
    grid = climate_fields.patch_grid(fields)
    for row, years in ((1, [3, 4]), (-1, [0, 1, 2, 3, 4])):
        expected = yearly[years][:, window].mean((0, 2), dtype=np.float64)
        got = climate.scale * climate.means[row]
        np.testing.assert_allclose(got, grid.patchify(expected), atol=1e-4)
    numbers = climate_fields.baseline_rmse(climate, weight)
    assert 0.9 < numbers["rmse/climatology"] < 1.1
    batch = climate_fields.splits(climate, batch_size=4, members=2)[0].batch(
        0, range(4)
    )
    assert all(np.isfinite(array).all() for array in batch.values())


def test_fields_without_values_are_refused() -> None:
    values = months(60).values.copy()
    values[48:] = np.nan
    with pytest.raises(ValueError, match="expected values in validation"):
        fit(months(60, values=values))
    with pytest.raises(ValueError, match="expected values that vary, got constants"):
        fit(months(60, values=np.ones_like(values)))
