"""Fields as departures from their climate, cut into patches, and how far the past of a
cell tells of its future.

The years of a series drift, and a climate that has seen the month to be foretold hides
it. So training looks at each month against the climate of other years, and validation
against that of all training years: both are climates that do not know the month.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from transformer.data import records
from transformer.data.fields import Fields
from transformer.data.images import patches

PATCH = (5, 8)
LEADS = (1, 3)
AHEAD = ("1 month ahead", "3 months ahead")
HARMONICS = 2
YEAR = 12


class Grid(NamedTuple):
    """How a map is cut: patches down and across, and rows added below to fill."""

    shape: tuple[int, int]
    fill: int

    def cut(self, maps: np.ndarray) -> np.ndarray:
        """[..., C, latitude, longitude] to raw patches [..., L, P]."""
        edges = [(0, 0)] * (maps.ndim - 2) + [(0, self.fill), (0, 0)]
        padded = np.pad(maps, edges)
        return patches.cut(np.moveaxis(padded, -3, -1), PATCH)

    def joined(self, raw: np.ndarray) -> np.ndarray:
        """The inverse of `cut`."""
        down, across = (n * p for n, p in zip(self.shape, PATCH, strict=True))
        maps = np.moveaxis(patches.joined(raw, (down, across), PATCH), -1, -3)
        return maps[..., : down - self.fill, :]


def grid(fields: Fields) -> Grid:
    """ValueError unless the longitudes are a whole number of patches."""
    rows, columns = fields.values.shape[2:]
    if columns % PATCH[1]:
        raise ValueError(
            f"{fields.name}: expected a multiple of {PATCH[1]} longitudes, "
            f"got {columns}"
        )
    down = -(-rows // PATCH[0])
    return Grid((down, columns // PATCH[1]), down * PATCH[0] - rows)


def area(fields: Fields, cut: Grid) -> np.ndarray:
    """What each cell counts, [L, P]: the cosine of its latitude, 0 where added."""
    weight = np.cos(np.deg2rad(fields.latitude)).clip(0)
    maps = np.broadcast_to(weight[None, :, None], fields.values.shape[1:])
    return cut.cut(maps).astype(np.float32)


class Climate(NamedTuple):
    """What the training months say of every cell, in units of `scale` (m/s).

    values: [T, L, P]. means: [years + 1, 12, L, P], the calendar months' means of the
    training years that are neither year y nor beside it; the last one is of all of
    them. coefficients: [leads, 3, L, P], of a forecast from `past`. deviation: [leads,
    12, L, P], of what that forecast leaves in each calendar month.
    """

    values: np.ndarray
    means: np.ndarray
    coefficients: np.ndarray
    deviation: np.ndarray
    scale: float
    train: int


def past(values: np.ndarray, mean: np.ndarray, now: int) -> np.ndarray:
    """Departures from `mean` [3, L, P]: this month, three months' and a year's mean."""
    months = np.arange(now - 11, now + 1)
    departures = values[months] - mean[months % YEAR]
    return np.stack([departures[-1], departures[-3:].mean(0), departures.mean(0)])


def climate(fields: Fields, cut: Grid, weight: np.ndarray) -> Climate:
    """The climate of the training years, and how far the past tells of the future.

    The years drift, and a climate that has seen the month to be foretold hides it. So
    the regression is of departures from the mean of *other* years, cell by cell, drawn
    to one for all cells by as much as the mean cell has seen.
    """
    values = cut.cut(fields.values)
    years = fields.train_steps // YEAR
    yearly = values[: YEAR * years].reshape(years, YEAR, *values.shape[1:])
    apart = np.abs(np.arange(years)[:, None] - np.arange(years)) > 1
    kept = [yearly[others].mean(0) for others in (*apart, np.ones(years, bool))]
    means = np.stack(kept)
    departures = values - means[-1][np.arange(len(values)) % YEAR]
    train = departures[: fields.train_steps]
    scale = float(
        np.sqrt((np.square(train) * weight).sum() / weight.sum() / len(train))
    )
    values, means = values / scale, means / scale
    fits = [_regressed(values, means[:-1], weight, lead=lead) for lead in LEADS]
    coefficients, deviation = (np.stack(part) for part in zip(*fits, strict=True))
    return Climate(values, means, coefficients, deviation, scale, fields.train_steps)


def _regressed(
    values: np.ndarray, means: np.ndarray, weight: np.ndarray, *, lead: int
) -> tuple[np.ndarray, np.ndarray]:
    """[3, L, P]: least squares of the departure on `past`, `lead` months before, each
    cell's own and drawn to one for all by as much as a mean cell has seen; and the
    deviation [12, L, P] of what that leaves, by season: a month and those beside it."""
    pasts, truths = [], []
    months = range(11 + lead, YEAR * len(means))
    for month in months:
        mean = means[month // YEAR]
        pasts.append(past(values, mean, month - lead))
        truths.append(values[month] - mean[month % YEAR])
    known, truth = np.stack(pasts), np.stack(truths)
    known = np.moveaxis(known, 1, -1)  # [months, L, P, 3]
    moments = (known[..., :, None] * known[..., None, :]).sum(0)
    slopes = (known * truth[..., None]).sum(0)
    shared = np.linalg.solve(
        (moments * weight[..., None, None]).sum((0, 1)),
        (slopes * weight[..., None]).sum((0, 1)),
    )
    pull = np.trace(moments, axis1=-2, axis2=-1).mean() / 3 * np.eye(3)
    cells = np.linalg.solve(moments + pull, (slopes + pull @ shared)[..., None])
    cells = cells[..., 0]
    left = np.square(truth - (known * cells).sum(-1))
    calendar = np.asarray(months) % YEAR
    apart = np.abs(np.arange(YEAR)[:, None] - calendar)
    near = np.minimum(apart, YEAR - apart) <= 1
    variance = [left[rows].mean(0) for rows in near]
    return np.moveaxis(cells, -1, 0), np.sqrt(np.stack(variance))


def examples(known: Climate) -> dict[str, dict[str, np.ndarray]]:
    """(month to foretell, number of its lead) for every month whose past is known; the
    validation months are those behind the training months."""
    found: dict[str, list[tuple[int, int]]] = {"train": [], "validation": []}
    for number, lead in enumerate(LEADS):
        for month in range(11 + lead, len(known.values)):
            split = "train" if month < known.train else "validation"
            found[split].append((month, number))
    pairs = {split: np.asarray(rows, np.int32) for split, rows in found.items()}
    return {s: {"month": rows[:, 0], "lead": rows[:, 1]} for s, rows in pairs.items()}


def _mean_of_some(known: Climate, year: int, rng: np.random.Generator) -> np.ndarray:
    """The calendar months' means of half or more of the years not beside `year`."""
    years = known.train // YEAR
    others = np.flatnonzero(np.abs(np.arange(years) - year) > 1)
    some = rng.permutation(others)[: rng.integers(len(others) // 2, len(others) + 1)]
    yearly = known.values[: YEAR * years].reshape(years, YEAR, *known.values.shape[1:])
    return yearly[some].mean(0)


def regression(known: Climate, month: int, number: int) -> np.ndarray:
    """What the past of each cell says of a validation month, [L, P]."""
    read = past(known.values, known.means[-1], int(month) - LEADS[number])
    return (known.coefficients[number] * read).sum(0)


def prepared(known: Climate) -> records.Prepare:
    """From (month, lead) to what the model reads, what it adds to, and the truth, all
    as departures from a climate that has not seen the month."""

    def one(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        month, number = int(row["month"]), int(row["lead"])
        mean = known.means[-1]
        if month < known.train:
            mean = _mean_of_some(known, month // YEAR, rng)
        read = past(known.values, mean, month - LEADS[number])
        base = (known.coefficients[number] * read).sum(0)
        angle = 2 * np.pi / 12 * (month % 12) * np.arange(1, 1 + HARMONICS)
        told = [np.sin(angle), np.cos(angle), np.eye(len(LEADS))[number]]
        made = {
            "raw_BLP": np.concatenate([*read, base], axis=-1),
            "base_BLP": base,
            "deviation_BLP": known.deviation[number, month % YEAR],
            "target_BLP": known.values[month] - mean[month % YEAR],
            "condition_BJ": np.concatenate(told),
        }
        return {name: array.astype(np.float32) for name, array in made.items()}

    return one


def years(known: Climate) -> tuple[np.ndarray, np.ndarray]:
    """Each validation month's departure [months, L, P], and those of the same calendar
    month in every training year, [years, months, L, P]."""
    departures = known.values - known.means[-1][np.arange(len(known.values)) % YEAR]
    months = np.arange(known.train, len(known.values))
    others = [departures[m % YEAR : known.train : YEAR] for m in months]
    return departures[months], np.stack(others, 1)


def baselines(known: Climate, weight: np.ndarray) -> dict[str, float]:
    """Errors, m/s, of the validation months, weighted by area: the climate, the months
    before, their departures, and the regression on `past`."""

    def rmse(error: np.ndarray) -> float:
        mean = (np.square(error) * weight).sum() / weight.sum() / len(error)
        return known.scale * float(np.sqrt(mean))

    truth, _ = years(known)
    found = {"rmse, climate": rmse(truth)}
    months = range(known.train, len(known.values))
    for number, (lead, ahead) in enumerate(zip(LEADS, AHEAD, strict=True)):
        before = np.stack([known.values[m - lead] for m in months])
        mean = np.stack([known.means[-1][(m - lead) % YEAR] for m in months])
        said = np.stack([regression(known, m, number) for m in months])
        now = np.stack([known.values[m] for m in months])
        found[f"rmse, persistence, {ahead}"] = rmse(now - before)
        found[f"rmse, anomaly persistence, {ahead}"] = rmse(truth - before + mean)
        found[f"rmse, regression, {ahead}"] = rmse(truth - said)
    return found
