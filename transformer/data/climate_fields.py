"""Fields as anomalies from their climatology, cut into patches, and forecasts by the
regression of each cell.

The years of a series drift, and a climatology that includes the step to forecast leaks
it. So training takes anomalies from the mean of other years, and validation from the
mean of all training years: neither mean includes the step itself.

A step is a month, or a day or a fraction of it (`time_axis`). Monthly means are those
of each calendar month. Of shorter steps, the mean at a time of the year and of the day
is over the 31 days around it. A missing value (NaN) has no weight as a target, and is
an anomaly of 0 as an input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from transformer.data import cell_regression, missing_values, records, time_axis
from transformer.data.cell_regression import Regression
from transformer.data.images import patches
from transformer.data.records import Fields
from transformer.data.shuffling import EvaluationSplit, TrainingSplit

PATCH = (5, 8)
LEADS = (1, 3)
LEAD_NAMES = ("lead_1", "lead_3")
HARMONICS = 2
SMOOTHING_DAYS = 31
# With fewer years, some year would have no other beside its two neighbors.
TRAINING_YEARS = 4
EVALUATION_BATCH = 16


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


def whole_years(fields: Fields) -> Fields:
    """The series with training steps of whole years and a validation of one or more,
    without February 29; what that changes is printed in one line.

    ValueError, naming the series, where steps are not equal, or years too few.
    """
    axis = time_axis.read(fields.name, fields.time)
    year, steps = axis.steps_per_year, int(axis.keep.sum())
    train = int(axis.keep[: fields.train_steps].sum())
    years = min(train // year, steps // year - 1)
    if years < TRAINING_YEARS:
        raise ValueError(
            f"{fields.name}: expected {TRAINING_YEARS} years or more to train on and 1 "
            f"to validate, {(TRAINING_YEARS + 1) * year} steps of a {axis.step}, got "
            f"{steps} steps, of which {train} to train on"
        )
    notes = time_axis.describe(axis)
    if train != years * year:
        notes.append(
            f"training has {years} whole years, {years * year} steps, and validation "
            f"the other {steps - years * year}"
        )
    values = fields.values
    if not axis.keep.all():
        values = values[axis.keep]
    missing = int(np.isnan(values).sum())
    if missing:
        notes.append(
            f"{missing:,} of {values.size:,} values are missing: anomalies of 0 as "
            "input, no weight as target"
        )
    if notes:
        print(f"{fields.name}: {'; '.join(notes)}", flush=True)
    time = fields.time[axis.keep]
    return fields._replace(values=values, time=time, train_steps=years * year)


class Climatology(NamedTuple):
    """Statistics of the training years in every cell, in units of `scale` (m/s).

    values: [T, L, P], NaN where missing. weight: [L, P]. means: [years + 1, S, L, P],
    the means of the S steps of the year over the training years other than y, y - 1 and
    y + 1; the last one is of all training years; NaN where there is no value. sums,
    counts: [years, S, L, P], of which the mean of any years is the quotient.
    regressions: of each lead. train_steps: a multiple of S.
    """

    values: np.ndarray
    weight: np.ndarray
    means: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    regressions: tuple[Regression, ...]
    scale: float
    train_steps: int

    @property
    def year(self) -> int:
        """The steps of a year, S."""
        return self.means.shape[1]


def _yearly(values: np.ndarray, year: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts [years, S, L, P] of what `values` has in each step of each year;
    of steps shorter than a month, the means of both over SMOOTHING_DAYS, within the
    same year."""
    yearly = values.reshape(-1, year, *values.shape[1:])
    missing = np.isnan(yearly)
    sums, counts = np.where(missing, 0, yearly), (~missing).astype(np.float32)
    if year == time_axis.MONTHS:
        return sums, counts
    from scipy import ndimage

    days = year // (year // 360)  # 360, 365 or 366
    by_day = len(yearly), days, year // days, *values.shape[1:]
    sums, counts = (
        ndimage.uniform_filter1d(
            array.reshape(by_day), SMOOTHING_DAYS, axis=1, mode="wrap"
        ).reshape(yearly.shape)
        for array in (sums, counts)
    )
    return sums, counts


def fit_climatology(fields: Fields, grid: PatchGrid, weight: np.ndarray) -> Climatology:
    """The climatology of the training years, and the regression of anomalies from the
    mean of *other* years: for each cell, shrunk toward one for all cells.

    fields: as from `whole_years`. ValueError where a split has no values that have a
    climatology, or values do not vary.
    """
    year = time_axis.read(fields.name, fields.time).steps_per_year
    values = grid.patchify(fields.values)
    years = fields.train_steps // year
    sums, counts = _yearly(values[: year * years], year)
    apart = np.abs(np.arange(years)[:, None] - np.arange(years)) > 1
    subsets = (*apart, np.ones(years, bool))
    means = np.stack(
        [missing_values.mean(sums[others], counts[others]) for others in subsets]
    )
    anomalies = values - means[-1][np.arange(len(values)) % year]
    for split, part in zip(
        ("training", "validation"),
        np.split(anomalies, [fields.train_steps]),
        strict=True,
    ):
        if not (np.isfinite(part) & (weight > 0)).any():
            raise ValueError(
                f"{fields.name}: expected values in {split} that are not missing in "
                "all training years, got none"
            )
    scale = float(
        np.sqrt(missing_values.mean_square(anomalies[: fields.train_steps], weight))
    )
    if not scale > 0:
        raise ValueError(f"{fields.name}: expected values that vary, got constants")
    values, means, sums = values / scale, means / scale, sums / scale
    arrays, variables = (values, means[:-1], weight), fields.values.shape[1]
    regressions = tuple(
        cell_regression.fit(*arrays, lead=lead, variables=variables) for lead in LEADS
    )
    fitted = regressions, scale, fields.train_steps
    return Climatology(values, weight, means, sums, counts, *fitted)


def examples(climate: Climatology) -> dict[str, dict[str, np.ndarray]]:
    """By split, `step` to forecast and index of its `lead`, for every step whose past
    is in the series; validation steps come after the training steps."""
    found: dict[str, list[tuple[int, int]]] = {"train": [], "validation": []}
    for number, lead in enumerate(LEADS):
        start = cell_regression.first_step(lead, climate.year)
        for step in range(start, len(climate.values)):
            split = "train" if step < climate.train_steps else "validation"
            found[split].append((step, number))
    pairs = {split: np.asarray(rows, np.int32) for split, rows in found.items()}
    return {s: {"step": rows[:, 0], "lead": rows[:, 1]} for s, rows in pairs.items()}


def _random_years(
    climate: Climatology, year: int, rng: np.random.Generator
) -> np.ndarray:
    """A random half or more of the training years other than `year` and its
    neighbors."""
    years = climate.train_steps // climate.year
    others = np.flatnonzero(np.abs(np.arange(years) - year) > 1)
    order = rng.permutation(others)
    least = max(len(others) // 2, 1)
    return order[: rng.integers(least, len(others) + 1)]


def regression_forecast(climate: Climatology, step: int, lead_index: int) -> np.ndarray:
    """The regression's anomaly of a validation step at LEADS[lead_index], [L, P]."""
    past = cell_regression.past(int(step), LEADS[lead_index], climate.year)
    anomalies = climate.values[past] - climate.means[-1][past % climate.year]
    coefficients = climate.regressions[lead_index].coefficients
    return (coefficients * cell_regression.features(anomalies)).sum(0)


def _anomalies(
    climate: Climatology, steps: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """[steps, L, P] from the mean of all training years, or, where the last step is in
    training, of random years beside its own."""
    of_year, last = steps % climate.year, int(steps[-1])
    if last >= climate.train_steps:
        return climate.values[steps] - climate.means[-1][of_year]
    years = _random_years(climate, last // climate.year, rng)
    index = np.ix_(years, of_year)
    return climate.values[steps] - missing_values.mean(
        climate.sums[index], climate.counts[index]
    )


def _residuals(
    climate: Climatology, step: int, number: int, members: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals [I, L, P] around the forecast of a step, and their mean distance: all
    of them, or, in training, `members` random ones of other years than its own."""
    regression, year = climate.regressions[number], climate.year
    if step >= climate.train_steps:
        return regression.residuals, regression.distance
    others = np.flatnonzero(regression.steps // year != step // year)
    chosen = rng.choice(others, members, replace=len(others) < members)
    residuals = regression.residuals[chosen]
    return residuals, cell_regression.mean_distance(residuals)


def prepare_forecast(climate: Climatology, members: int) -> records.Prepare:
    """From (step, lead) to the model's input, the regression that it corrects and
    residuals around it, the target, and its weight, 0 where it is missing; all as
    anomalies from a mean without the step. members: of the residuals in training."""

    def prepare(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        step, number = int(row["step"]), int(row["lead"])
        year, regression = climate.year, climate.regressions[number]
        past = cell_regression.past(step, LEADS[number], year)
        anomalies = _anomalies(climate, np.append(past, step), rng)
        features, target = cell_regression.features(anomalies[:-1]), anomalies[-1]
        base = (regression.coefficients * features).sum(0)
        angle = 2 * np.pi / year * (step % year) * np.arange(1, 1 + HARMONICS)
        condition = [np.sin(angle), np.cos(angle), np.eye(len(LEADS))[number]]
        residuals, distance = _residuals(climate, step, number, members, rng)
        arrays = {
            "raw_BLP": np.concatenate([*features, base], axis=-1),
            "base_BLP": base,
            "deviation_BLP": regression.deviation,
            "residual_BILP": residuals,
            "distance_BLP": distance,
            "target_BLP": missing_values.fill(target),
            "area_BLP": climate.weight * np.isfinite(target),
            "condition_BJ": np.concatenate(condition),
        }
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    return prepare


def splits(
    climate: Climatology, *, batch_size: int, members: int, seed: int = 0
) -> tuple[TrainingSplit, dict[str, EvaluationSplit]]:
    """Rows of `prepare_forecast`: the training steps, and by the name of the lead the
    validation steps in order, 12 a batch."""
    rows, prepare = examples(climate), prepare_forecast(climate, members)
    training = records.training(
        rows["train"], batch_size=batch_size, seed=seed, prepare=prepare
    )
    validation = {}
    for number, name in enumerate(LEAD_NAMES):
        chosen = rows["validation"]["lead"] == number
        part = {key: array[chosen] for key, array in rows["validation"].items()}
        validation[name] = records.evaluation(
            part, batch_size=EVALUATION_BATCH, prepare=prepare
        )
    return training, validation


def validation_anomalies(climate: Climatology) -> tuple[np.ndarray, np.ndarray]:
    """Each validation step's anomaly [steps, L, P], NaN where missing, and those of the
    same step of every training year, [years, steps, L, P], 0 where missing."""
    of_year = np.arange(len(climate.values)) % climate.year
    anomalies = climate.values - climate.means[-1][of_year]
    steps = np.arange(climate.train_steps, len(climate.values))
    others = [
        anomalies[m % climate.year : climate.train_steps : climate.year] for m in steps
    ]
    return anomalies[steps], missing_values.fill(np.stack(others, 1))


def baseline_rmse(climate: Climatology, weight: np.ndarray) -> dict[str, float]:
    """Area-weighted errors, m/s, over the validation steps: of the climatology,
    persistence, anomaly persistence, and the regression of each cell. What
    persists is the climatology where it is missing."""

    def rmse(error: np.ndarray) -> float:
        return climate.scale * float(np.sqrt(missing_values.mean_square(error, weight)))

    truth, _ = validation_anomalies(climate)
    found = {"rmse/climatology": rmse(truth)}
    steps = range(climate.train_steps, len(climate.values))
    for number, (lead, name) in enumerate(zip(LEADS, LEAD_NAMES, strict=True)):
        before = np.stack([climate.values[m - lead] for m in steps])
        mean = np.stack([climate.means[-1][(m - lead) % climate.year] for m in steps])
        before = np.where(np.isnan(before), mean, before)
        forecast = np.stack([regression_forecast(climate, m, number) for m in steps])
        now = np.stack([climate.values[m] for m in steps])
        found[f"rmse/persistence/{name}"] = rmse(now - before)
        found[f"rmse/anomaly_persistence/{name}"] = rmse(truth - before + mean)
        found[f"rmse/regression/{name}"] = rmse(truth - forecast)
    return found
