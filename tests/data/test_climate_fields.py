"""Anomalies of fields: patches, climatologies without the month, the regression."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data import climate_fields
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


def test_features_and_regression_equal_their_formulas(known) -> None:
    was, weight, _ = known
    mean = was.means[-1]
    this = was.values[30] - mean[6]
    before = np.stack([was.values[m] - mean[m % 12] for m in range(19, 31)])
    got = climate_fields.anomaly_features(was.values, mean, 30)
    expected = [this, before[-3:].mean(0), before.mean(0)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    forecast = climate_fields.regression_forecast(was, 66, 1)
    read = climate_fields.anomaly_features(was.values, mean, 63)
    by_hand = sum(was.coefficients[1, i] * read[i] for i in range(3))
    np.testing.assert_allclose(forecast, by_hand, rtol=1e-5, atol=1e-6)
    # The autoregression is 0.8: the regression finds it, and lowers the error.
    assert 0.5 < np.average(was.coefficients[0, 0], weights=weight) < 1.0
    numbers = climate_fields.baseline_rmse(was, weight)
    assert numbers["rmse/regression/lead_1"] < numbers["rmse/climatology"]
