"""Monthly fields as anomalies from their climatology, cut into patches, and a linear
regression of each cell's future on its past.

The years of a series drift, and a climatology that includes the month to forecast leaks
it. So training takes anomalies from the mean of other years, and validation from the
mean of all training years: neither mean includes the month itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from transformer.data import records
from transformer.data.images import patches
from transformer.data.records import Fields
from transformer.data.shuffling import EvaluationSplit, TrainingSplit

PATCH = (5, 8)
LEADS = (1, 3)
LEAD_NAMES = ("lead_1", "lead_3")
HARMONICS = 2
YEAR = 12


class PatchGrid(NamedTuple):
    """Patches down and across a map, and the rows of padding below it."""

    shape: tuple[int, int]
    padding: int

    def patchify(self, maps: np.ndarray) -> np.ndarray:
        """[..., C, latitude, longitude] to raw patches [..., L, P]."""
        edges = [(0, 0)] * (maps.ndim - 2) + [(0, self.padding), (0, 0)]
        padded = np.pad(maps, edges)
        return patches.patchify(np.moveaxis(padded, -3, -1), PATCH)

    def unpatchify(self, raw: np.ndarray) -> np.ndarray:
        """The inverse of `patchify`."""
        down, across = (n * p for n, p in zip(self.shape, PATCH, strict=True))
        maps = np.moveaxis(patches.unpatchify(raw, (down, across), PATCH), -1, -3)
        return maps[..., : down - self.padding, :]


def patch_grid(fields: Fields) -> PatchGrid:
    """ValueError unless the longitudes are a whole number of patches."""
    rows, columns = fields.values.shape[2:]
    if columns % PATCH[1]:
        raise ValueError(
            f"{fields.name}: expected a multiple of {PATCH[1]} longitudes, "
            f"got {columns}"
        )
    down = -(-rows // PATCH[0])
    return PatchGrid((down, columns // PATCH[1]), down * PATCH[0] - rows)


def area_weight(fields: Fields, grid: PatchGrid) -> np.ndarray:
    """The weight of each cell, [L, P]: the cosine of its latitude, 0 in the padding."""
    weight = np.cos(np.deg2rad(fields.latitude)).clip(0)
    maps = np.broadcast_to(weight[None, :, None], fields.values.shape[1:])
    return grid.patchify(maps).astype(np.float32)


class Climatology(NamedTuple):
    """Statistics of the training months in every cell, in units of `scale` (m/s).

    values: [T, L, P]. means: [years + 1, 12, L, P], the calendar months' means of the
    training years other than y, y - 1 and y + 1; the last one is of all training years.
    coefficients: [leads, 3, L, P], of the forecast from `anomaly_features`. deviation:
    [leads, 12, L, P], of that forecast's error by calendar month. train_steps: months.
    """

    values: np.ndarray
    means: np.ndarray
    coefficients: np.ndarray
    deviation: np.ndarray
    scale: float
    train_steps: int


def anomaly_features(values: np.ndarray, mean: np.ndarray, now: int) -> np.ndarray:
    """Anomalies from `mean` [3, L, P]: of month `now`, and the means over its last 3
    and 12 months."""
    months = np.arange(now - 11, now + 1)
    anomalies = values[months] - mean[months % YEAR]
    return np.stack([anomalies[-1], anomalies[-3:].mean(0), anomalies.mean(0)])


def fit_climatology(fields: Fields, grid: PatchGrid, weight: np.ndarray) -> Climatology:
    """The climatology of the training years, and the regression of anomalies from the
    mean of *other* years: for each cell, shrunk toward one for all cells."""
    values = grid.patchify(fields.values)
    years = fields.train_steps // YEAR
    yearly = values[: YEAR * years].reshape(years, YEAR, *values.shape[1:])
    apart = np.abs(np.arange(years)[:, None] - np.arange(years)) > 1
    subsets = (*apart, np.ones(years, bool))
    means = np.stack([yearly[others].mean(0) for others in subsets])
    anomalies = values - means[-1][np.arange(len(values)) % YEAR]
    train = anomalies[: fields.train_steps]
    scale = float(
        np.sqrt((np.square(train) * weight).sum() / weight.sum() / len(train))
    )
    values, means = values / scale, means / scale
    fits = [_fit_regression(values, means[:-1], weight, lead=lead) for lead in LEADS]
    coefficients, deviation = (np.stack(part) for part in zip(*fits, strict=True))
    return Climatology(
        values, means, coefficients, deviation, scale, fields.train_steps
    )


def _fit_regression(
    values: np.ndarray, means: np.ndarray, weight: np.ndarray, *, lead: int
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of the anomaly on `anomaly_features` of `lead` months before.

    Coefficients [3, L, P] of each cell, shrunk toward those of all cells by a prior as
    strong as one mean cell's data; and the standard deviation [12, L, P] of the
    residuals by season: a calendar month and its two neighbors."""
    features, truths = [], []
    months = range(11 + lead, YEAR * len(means))
    for month in months:
        mean = means[month // YEAR]
        features.append(anomaly_features(values, mean, month - lead))
        truths.append(values[month] - mean[month % YEAR])
    known, truth = np.stack(features), np.stack(truths)
    known = np.moveaxis(known, 1, -1)  # [months, L, P, 3]
    moments = (known[..., :, None] * known[..., None, :]).sum(0)
    slopes = (known * truth[..., None]).sum(0)
    shared = np.linalg.solve(
        (moments * weight[..., None, None]).sum((0, 1)),
        (slopes * weight[..., None]).sum((0, 1)),
    )
    prior = np.trace(moments, axis1=-2, axis2=-1).mean() / 3 * np.eye(3)
    cells = np.linalg.solve(moments + prior, (slopes + prior @ shared)[..., None])
    cells = cells[..., 0]
    residual = np.square(truth - (known * cells).sum(-1))
    calendar = np.asarray(months) % YEAR
    apart = np.abs(np.arange(YEAR)[:, None] - calendar)
    near = np.minimum(apart, YEAR - apart) <= 1
    variance = [residual[rows].mean(0) for rows in near]
    return np.moveaxis(cells, -1, 0), np.sqrt(np.stack(variance))


def examples(climate: Climatology) -> dict[str, dict[str, np.ndarray]]:
    """By split, `month` to forecast and index of its `lead`, for every month whose past
    is in the series; validation months come after the training months."""
    found: dict[str, list[tuple[int, int]]] = {"train": [], "validation": []}
    for number, lead in enumerate(LEADS):
        for month in range(11 + lead, len(climate.values)):
            split = "train" if month < climate.train_steps else "validation"
            found[split].append((month, number))
    pairs = {split: np.asarray(rows, np.int32) for split, rows in found.items()}
    return {s: {"month": rows[:, 0], "lead": rows[:, 1]} for s, rows in pairs.items()}


def _random_mean(
    climate: Climatology, year: int, rng: np.random.Generator
) -> np.ndarray:
    """The calendar months' means of a random half or more of the years other than
    `year` and its neighbors."""
    years = climate.train_steps // YEAR
    others = np.flatnonzero(np.abs(np.arange(years) - year) > 1)
    order = rng.permutation(others)
    chosen = order[: rng.integers(len(others) // 2, len(others) + 1)]
    cells = climate.values.shape[1:]
    yearly = climate.values[: YEAR * years].reshape(years, YEAR, *cells)
    return yearly[chosen].mean(0)


def regression_forecast(
    climate: Climatology, month: int, lead_index: int
) -> np.ndarray:
    """The regression's anomaly of a validation month at LEADS[lead_index], [L, P]."""
    now = int(month) - LEADS[lead_index]
    features = anomaly_features(climate.values, climate.means[-1], now)
    return (climate.coefficients[lead_index] * features).sum(0)


def prepare_forecast(climate: Climatology) -> records.Prepare:
    """From (month, lead) to the model's input, the regression that it corrects, and the
    target, all as anomalies from a mean without the month."""

    def prepare(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        month, number = int(row["month"]), int(row["lead"])
        mean = climate.means[-1]
        if month < climate.train_steps:
            mean = _random_mean(climate, month // YEAR, rng)
        features = anomaly_features(climate.values, mean, month - LEADS[number])
        base = (climate.coefficients[number] * features).sum(0)
        angle = 2 * np.pi / 12 * (month % 12) * np.arange(1, 1 + HARMONICS)
        condition = [np.sin(angle), np.cos(angle), np.eye(len(LEADS))[number]]
        arrays = {
            "raw_BLP": np.concatenate([*features, base], axis=-1),
            "base_BLP": base,
            "deviation_BLP": climate.deviation[number, month % YEAR],
            "target_BLP": climate.values[month] - mean[month % YEAR],
            "condition_BJ": np.concatenate(condition),
        }
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    return prepare


def splits(
    climate: Climatology, *, batch_size: int, seed: int = 0
) -> tuple[TrainingSplit, dict[str, EvaluationSplit]]:
    """Rows of `prepare_forecast`: the training months, and by the name of the lead the
    validation months in order, 12 a batch."""
    rows, prepare = examples(climate), prepare_forecast(climate)
    training = records.training(
        rows["train"], batch_size=batch_size, seed=seed, prepare=prepare
    )
    validation = {}
    for number, name in enumerate(LEAD_NAMES):
        chosen = rows["validation"]["lead"] == number
        part = {key: array[chosen] for key, array in rows["validation"].items()}
        validation[name] = records.evaluation(part, batch_size=YEAR, prepare=prepare)
    return training, validation


def validation_anomalies(climate: Climatology) -> tuple[np.ndarray, np.ndarray]:
    """Each validation month's anomaly [months, L, P], and those of the same calendar
    month in every training year, [years, months, L, P]."""
    calendar = np.arange(len(climate.values)) % YEAR
    anomalies = climate.values - climate.means[-1][calendar]
    months = np.arange(climate.train_steps, len(climate.values))
    others = [anomalies[m % YEAR : climate.train_steps : YEAR] for m in months]
    return anomalies[months], np.stack(others, 1)


def baseline_rmse(climate: Climatology, weight: np.ndarray) -> dict[str, float]:
    """Area-weighted errors, m/s, over the validation months: of the climatology,
    persistence, anomaly persistence, and the regression on `anomaly_features`."""

    def rmse(error: np.ndarray) -> float:
        mean = (np.square(error) * weight).sum() / weight.sum() / len(error)
        return climate.scale * float(np.sqrt(mean))

    truth, _ = validation_anomalies(climate)
    found = {"rmse/climatology": rmse(truth)}
    months = range(climate.train_steps, len(climate.values))
    for number, (lead, name) in enumerate(zip(LEADS, LEAD_NAMES, strict=True)):
        before = np.stack([climate.values[m - lead] for m in months])
        mean = np.stack([climate.means[-1][(m - lead) % YEAR] for m in months])
        forecast = np.stack([regression_forecast(climate, m, number) for m in months])
        now = np.stack([climate.values[m] for m in months])
        found[f"rmse/persistence/{name}"] = rmse(now - before)
        found[f"rmse/anomaly_persistence/{name}"] = rmse(truth - before + mean)
        found[f"rmse/regression/{name}"] = rmse(truth - forecast)
    return found
