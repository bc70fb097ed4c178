"""A linear regression of each cell's future on its own past, and its residuals.

Cells have few years each, so the slopes of a cell lean on those of its patch, and these
on those of all cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from transformer.data import missing_values

HISTORY = 12
FEATURES = 4
# The weight of a patch's mean cell, and of one mean cell of all, beside a cell's own:
# chosen on 1986 to 1989 of the shipped winds, trained on the years before; there 8 and
# 4 are as good.
PATCH_PRIOR, SHARED_PRIOR = 4, 2
# Fields of residuals that forecasts are dressed with, at most.
RESIDUALS = 96


class Regression(NamedTuple):
    """Forecasts of one lead from `features`. coefficients: [4, L, P]. deviation:
    [L, P], of the residuals. residuals: [N, L, P], of up to RESIDUALS training steps,
    less their mean; 0 where missing. steps: [N], those steps. distance: [L, P], the
    `mean_distance` of the residuals."""

    coefficients: np.ndarray
    deviation: np.ndarray
    residuals: np.ndarray
    steps: np.ndarray
    distance: np.ndarray


def first_step(lead: int, year: int) -> int:
    """The first step that has a past."""
    return max(HISTORY - 1 + lead, year + 1)


def past(step: int, lead: int, year: int) -> np.ndarray:
    """The steps that a forecast of `step` reads: 12 up to `lead` before it, and the
    three around the same time a year before."""
    last = step - lead + 1
    return np.r_[last - HISTORY : last, step - year - 1 : step - year + 2]


def features(anomalies: np.ndarray) -> np.ndarray:
    """[4, L, P] of the anomalies of the steps `past`: the last step, the means of the
    last 3 and 12, and of those a year before."""
    full = missing_values.fill(anomalies)
    recent, before = full[:HISTORY], full[HISTORY:]
    means = recent[-3:].mean(0), recent.mean(0), before.mean(0)
    return np.stack([recent[-1], *means])


def mean_distance(residuals: np.ndarray) -> np.ndarray:
    """[L, P]: |r - r'| in the mean over pairs of different residuals of [N, L, P]."""
    count = len(residuals)
    rank = 2 * np.arange(count, dtype=np.float32) + 1 - count
    total = np.tensordot(rank, np.sort(residuals, 0), 1)
    return 2 * total / max(count * (count - 1), 1)


def fit(
    values: np.ndarray,
    means: np.ndarray,
    weight: np.ndarray,
    *,
    lead: int,
    variables: int,
) -> Regression:
    """Least squares of the anomaly of a step on the `features` of its past.

    values: [T, L, P], NaN where missing. means: [years, S, L, P], those that the
    anomalies of each year are from. weight: [L, P], of the cells.
    """
    year = means.shape[1]
    steps = np.arange(first_step(lead, year), year * len(means))
    inputs, truth = [], []
    for step in steps:
        before, mean = past(step, lead, year), means[step // year]
        inputs.append(features(values[before] - mean[before % year]))
        truth.append(values[step] - mean[step % year])
    inputs, truth = np.moveaxis(np.stack(inputs), 1, -1), np.stack(truth)
    present: Any = np.isfinite(truth)
    truth = missing_values.fill(truth)
    inputs *= present[..., None]  # [steps, L, P, 4]
    cells = _slopes(inputs, truth, present.any(0), weight, variables)
    residuals = truth - (inputs * cells).sum(-1)
    count = present.sum(0)
    centered = np.where(present, residuals - residuals.sum(0) / np.maximum(count, 1), 0)
    square = np.square(centered)
    # What was never there has the spread of all cells.
    variance = np.where(count > 0, square.sum(0) / np.maximum(count, 1), square.mean())
    chosen = np.linspace(0, len(steps) - 1, min(len(steps), RESIDUALS)).astype(int)
    fitted = np.moveaxis(cells, -1, 0), np.sqrt(variance)
    residuals = centered[chosen].astype(np.float32)
    return Regression(*fitted, residuals, steps[chosen], mean_distance(residuals))


def _slopes(
    inputs: np.ndarray,
    truth: np.ndarray,
    present: np.ndarray,
    weight: np.ndarray,
    variables: int,
) -> np.ndarray:
    """[L, P, 4]: of each cell, with the priors of its patch and of all cells."""
    moments: Any = sum(row[..., :, None] * row[..., None, :] for row in inputs)
    slopes = (inputs * truth[..., None]).sum(0)
    shared = np.linalg.solve(
        (moments * weight[..., None, None]).sum((0, 1)),
        (slopes * weight[..., None]).sum((0, 1)),
    )
    scale = np.trace(moments, axis1=-2, axis2=-1).mean() / FEATURES / present.mean()
    prior = (SHARED_PRIOR * scale).astype(np.float32) * np.eye(FEATURES)
    moments = moments + PATCH_PRIOR * patch_mean(moments, present, variables)
    slopes = slopes + PATCH_PRIOR * patch_mean(slopes, present, variables)
    right = (slopes + prior @ shared)[..., None]
    return np.linalg.solve(moments + prior, right)[..., 0]


def patch_mean(array: np.ndarray, present: np.ndarray, variables: int) -> np.ndarray:
    """[L, P, ...]: the mean over the cells of each patch that are `present`, [L, P], by
    variable; all others are 0."""
    by_cell = array.reshape(len(array), -1, variables, *array.shape[2:])
    counts = present.reshape(by_cell.shape[:3]).sum(1, keepdims=True)
    counts = np.maximum(counts, 1).reshape(*counts.shape, *[1] * (array.ndim - 2))
    mean = by_cell.sum(1, keepdims=True) / counts
    return np.broadcast_to(mean, by_cell.shape).reshape(array.shape)
