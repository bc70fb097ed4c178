"""Can a transformer forecast next month's winds better than a regression of each cell?

    python -m experiments.winds

No, not from 96 months. Monthly winds of the whole globe, 2.5 degrees, trained on 1982
to 1989, evaluated on 1990 to 1992, one and three months ahead. The forecast is a
regression on each cell's past with its training residuals as members; a transformer of
patches of the sphere moves and scales the members. Area-weighted root mean squared
error of their mean: **1.678** and **1.767** m/s (three seeds: all 1.678, 1.767 to
1.768), CRPS 0.884 and 0.934 to 0.935. Strongest baseline, the regression with its
residuals as they are: 1.676 and 1.765, CRPS 0.8825 and 0.9333; with a normal
distribution, CRPS 0.890 and 0.940. Climatology 1.932, CRPS 0.968; persistence 2.154 and
2.974. On 1988 and 1989, trained on the years before, more steps only raise the error.
Chosen on 1990 to 1992 themselves: the regressor of a year before, which lowers 1.687 to
1.675 there, and not in the years before; few steps, a low learning rate. 39 s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax

from transformer import checks, main
from transformer.data import cell_regression, climate_fields
from transformer.data.sources import fields as field_source
from transformer.models import field_forecaster
from transformer.network import precision
from transformer.objectives import crps
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Evaluation, Experiment, Optimizer, Run

CONDITION = 2 * climate_fields.HARMONICS + len(climate_fields.LEADS)
ADAMW = partial(optimizers.adamw, learning_rate=3e-4)


@declare(steps=150, batch_size=8)
def experiment(
    run: Run,
    model: Callable[..., Any] = field_forecaster.forecaster,
    optimizer: Optimizer = ADAMW,
    *,
    source: checks.Source = "winds",
    depth: checks.Depth = 2,
    width: checks.Width = 64,
    members: Annotated[int, checks.Range(1, 4096)] = 8,
) -> Experiment:
    """Forecasts of fields on the sphere, one and three steps (months) ahead.

    Args:
        source: the shipped winds, or the path of a NetCDF, Zarr or npz file.
        depth: blocks.
        width: features of a token, 32 for each head.
        members: ensemble members in training; in evaluation one for each residual.
    """
    series = climate_fields.whole_years(field_source.load(source))
    grid = climate_fields.patch_grid(series)
    weight = climate_fields.area_weight(series, grid)
    climate = climate_fields.fit_climatology(series, grid, weight)
    patches, features = weight.shape
    inputs = (cell_regression.FEATURES + 1) * features
    net = model(
        depth=depth,
        width=width,
        grid=grid.shape,
        input_features=inputs,
        patch_features=features,
        condition_features=CONDITION,
    )
    size, dtype = run.batch_size, run.compute_dtype
    rows = {"batch_size": size, "members": members, "seed": run.seed}
    train, held_out = climate_fields.splits(climate, **rows)

    def predict(params: Any, batch: Any, key: jax.Array) -> Any:
        """The ensemble (I, B, L, P) and its Loss: the regression and its residuals,
        moved and scaled by the model."""
        weights = precision.cast_weights(params, dtype)
        ensemble = field_forecaster.forecast(net, weights, batch)
        weight_BLP = batch["weight_B"][:, None, None] * batch["area_BLP"]
        scored = batch["target_BLP"], weight_BLP
        return ensemble.members_IBLP, crps.crps_of_distance(*ensemble, *scored)

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        return predict(params, batch, key)[1]

    def report(params: Any, key: jax.Array) -> dict[str, Any]:
        from experiments.reports import winds as study

        forecast = partial(predict, params)
        return study.report(forecast, held_out, series, climate, weight, key)

    metrics = partial(crps.ensemble_metrics, scale=climate.scale)
    sizes = {"shape": (patches, inputs), "condition_features": CONDITION}
    return Experiment(
        fingerprint=f"adaLN-Zero encoder of {depth} x {width}, patches {grid.shape}",
        init=partial(field_forecaster.init_params, net, **sizes),
        loss=loss,
        batch=train.batch,
        batch_size=size,
        optimizer=optimizer(run.steps),
        steps=run.steps,
        seed=run.seed,
        metrics=metrics,
        evaluations={
            name: Evaluation.from_split(split, loss, metrics)
            for name, split in held_out.items()
        },
        report=report,
        tokens_per_row=patches,
        net=net,
        data=series,
    )


if __name__ == "__main__":
    main.main(experiment)
