"""Errors of the ensemble forecasts beside their baselines, and maps of one month."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.data import climate_fields
from transformer.data.climate_fields import Climatology, PatchGrid
from transformer.data.records import Fields
from transformer.data.shuffling import EvaluationSplit
from transformer.objectives import crps


class Forecasts(NamedTuple):
    """Forecasts of a validation split: its metrics in m/s, and [months, L, P] of the
    truth (NaN where missing), the ensemble's mean and its standard deviation, in units
    of the climatology's scale."""

    metrics: dict[str, float]
    truth: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def predict_split(
    predict: Callable[..., Any], split: EvaluationSplit, key: jax.Array, *, scale: float
) -> Forecasts:
    """The `Forecasts` of a split. predict(batch, key): members (I, B, L, P), Loss."""
    losses, parts = [], []
    for step in range(split.batches):
        batch = split.batch(step, range(split.batch_size))
        members_IBLP, loss = predict(batch, key)
        members, real = np.asarray(members_IBLP), batch["weight_B"] > 0
        losses.append(loss)
        truth = np.where(batch["area_BLP"] > 0, batch["target_BLP"], np.nan)
        arrays = truth, members.mean(0), members.std(0, ddof=1)
        parts.append([array[real] for array in arrays])
    loss = jax.tree.map(lambda *sums: sum(sums), *losses)
    arrays = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Forecasts(crps.ensemble_metrics(loss, scale=scale), *arrays)


def report(
    predict: Callable[..., Any],
    splits: Mapping[str, EvaluationSplit],
    fields: Fields,
    climate: Climatology,
    weight: np.ndarray,
    key: jax.Array,
) -> dict[str, Any]:
    """results.json, and maps.png of the month of the largest anomaly. splits: by the
    name of the lead."""
    program = jax.jit(predict)
    forecasts = {
        name: predict_split(program, split, key, scale=climate.scale)
        for name, split in splits.items()
    }
    results = {
        f"{metric}/{name}": part.metrics[metric]
        for name, part in forecasts.items()
        for metric in ("rmse", "crps", "spread")
    }
    results |= climate_fields.baseline_rmse(climate, weight)
    results["crps/climatology"] = climatology_crps(climate, weight)
    results |= regression_crps(climate, splits)
    first = next(iter(forecasts.values()))
    month = int(np.argmax(np.nansum(np.square(first.truth), (1, 2))))
    return {
        "results.json": results,
        "maps.png": plot_maps(first, fields, climate, month),
    }


def climatology_crps(climate: Climatology, weight: np.ndarray) -> float:
    """CRPS, m/s, of an ensemble of the same calendar month of every training year."""
    truth, others = climate_fields.validation_anomalies(climate)
    arrays = others, truth, weight * np.isfinite(truth)
    loss = crps.crps(*map(jnp.asarray, arrays))
    return climate.scale * float(loss.total / loss.weight)


def regression_crps(
    climate: Climatology, splits: Mapping[str, EvaluationSplit]
) -> dict[str, float]:
    """CRPS, m/s, of the regression of each cell with the residuals of its training
    steps as members, and with a normal distribution of their deviation."""

    def scores(batch: Any) -> tuple[jax.Array, ...]:
        base_BLP, target_BLP = batch["base_BLP"], batch["target_BLP"]
        weight_BLP = batch["weight_B"][:, None, None] * batch["area_BLP"]
        members_IBLP = base_BLP[None] + jnp.swapaxes(batch["residual_BILP"], 0, 1)
        arrays = members_IBLP, batch["distance_BLP"], target_BLP, weight_BLP
        deviation_BLP = jnp.where(weight_BLP > 0, batch["deviation_BLP"], 1)
        normal_BLP = crps.gaussian_crps(base_BLP - target_BLP, deviation_BLP)
        normal = jnp.sum(normal_BLP * weight_BLP)
        return crps.crps_of_distance(*arrays).total, normal, weight_BLP.sum()

    program, found = jax.jit(scores), {}
    for name, split in splits.items():
        rows = range(split.batch_size)
        sums = [program(split.batch(step, rows)) for step in range(split.batches)]
        residuals, normal, total = (
            float(sum(part)) for part in zip(*sums, strict=True)
        )
        found[f"crps/regression/{name}"] = climate.scale * residuals / total
        found[f"crps/regression_normal/{name}"] = climate.scale * normal / total
    return found


def plot_maps(
    forecasts: Forecasts, fields: Fields, climate: Climatology, month: int
) -> Any:
    """A matplotlib figure of the first variable in a validation month: the anomaly, the
    ensemble's mean and its standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9.5), layout="constrained")
    grid: PatchGrid = climate_fields.patch_grid(fields)
    edges = (*fields.longitude[[0, -1]], *fields.latitude[[0, -1]])
    panels = {
        "anomaly": forecasts.truth,
        "mean of the ensemble": forecasts.mean,
        "standard deviation of the ensemble": forecasts.deviation,
    }
    for axes, (name, values) in zip(figure.subplots(3), panels.items(), strict=True):
        positive = values is forecasts.deviation
        limit = 3.0 if positive else 6.0
        image = axes.imshow(
            climate.scale * grid.unpatchify(values[month])[0],
            extent=edges,
            origin="lower",
            cmap="viridis" if positive else "RdBu_r",
            vmin=0.0 if positive else -limit,
            vmax=limit,
            aspect="auto",
        )
        axes.set(title=name, ylabel="latitude")
        figure.colorbar(image, ax=axes, label=fields.units[0])
    figure.axes[2].set_xlabel("longitude")
    time = fields.time[climate.train_steps + month]
    figure.suptitle(f"{fields.variables[0]}: anomaly from the climatology, {time}")
    return figure
