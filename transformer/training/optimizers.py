"""Optimizers of the experiments and their learning rate schedules.

The functions `f(steps, *, ...)` fit the slot `optimizer` of an experiment; their
keywords are its flags. Weight decay and orthogonalization follow from a parameter's
name, never from its rank: a scanned stack adds a leading dimension to every leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from transformer import checks
from transformer.axes import dimensions, leaf_name

# Input and output dimensions of each linear map; one in neither (experts) counts maps.
INPUTS_OUTPUTS = {
    "DHK": ("D", "HK"),
    "DGK": ("D", "GK"),
    "HKD": ("HK", "D"),
    "DF": ("D", "F"),
    "DZ": ("D", "Z"),
    "FD": ("F", "D"),
    "EDF": ("D", "F"),
    "EFD": ("F", "D"),
    "DE": ("D", "E"),
}
# Into the first layer, out of the last and from a condition: Muon is for maps within
# the residual stream (Jordan et al. 2024).
OUTER = ("PD", "DP", "JD")


def warmup_cosine(
    peak: float, *, steps: int, warmup: int, final: float = 0.1
) -> optax.Schedule:
    """Linear warm-up to `peak` in `warmup` steps, then half a cosine down to
    final * peak at `steps`. The first step is not zero."""
    warmup = max(1, min(warmup, steps))
    falling = optax.cosine_decay_schedule(peak, max(steps - warmup + 1, 1), final)
    return optax.join_schedules([_warmup(peak, warmup), falling], [warmup - 1])


def warmup_stable_decay(
    peak: float, *, steps: int, warmup: int, decay: float = 0.2, final: float = 0.0
) -> optax.Schedule:
    """Linear warm-up to `peak` in `warmup` steps, constant, then linear decay to
    final * peak over the last fraction `decay` of the steps (WSD, Hu et al. 2024,
    arXiv 2404.06395)."""
    falling = max(1, round(decay * steps))
    warmup = min(warmup, steps - falling)
    pieces = [
        _warmup(peak, max(warmup, 1)),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, final * peak, falling),
    ]
    return optax.join_schedules(pieces, [warmup, steps - falling])


def _warmup(peak: float, warmup: int) -> optax.Schedule:
    """peak / warmup, ..., peak: never 0, which would waste a step."""
    return lambda step: peak * jnp.minimum((step + 1) / warmup, 1.0)


def is_decayed(params: Any) -> Any:
    """True for the matrices of linear maps: names `w_...` with two letters or more."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path), params)


def _is_matrix(path: Sequence[Any]) -> bool:
    name = leaf_name(path)
    return name.startswith("w_") and len(dimensions(name)) > 1


def adamw(
    steps: int,
    *,
    learning_rate: checks.LearningRate = 1e-3,
    weight_decay: checks.Scale = 0.1,
    warmup_fraction: checks.Fraction = 0.05,
    b2: checks.Fraction = 0.99,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) with `warmup_cosine`, and
    decay of the parameters that `is_decayed`.

    Args:
        learning_rate: peak learning rate.
        weight_decay: decay of the linear maps' matrices, in units of the learning rate.
        warmup_fraction: fraction of the steps in which the learning rate rises.
        b2: decay rate of the second moments.
    """
    warmup = int(steps * warmup_fraction) + 1
    schedule = warmup_cosine(learning_rate, steps=steps, warmup=warmup)
    decay: Any = {"weight_decay": weight_decay, "mask": is_decayed}
    return optax.adamw(schedule, b2=b2, **decay)


def muon(
    muon_learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Muon for the matrices of linear maps, Adam for all other parameters (Jordan et
    al. 2024; Liu et al. 2025, arXiv 2502.16982).

    A weight is orthogonalized as the matrix inputs x outputs of its linear map, each
    scanned layer by itself.
    """
    return optax.contrib.muon(
        muon_learning_rate,
        adam_learning_rate=adam_learning_rate,
        adam_b2=0.95,
        weight_decay=weight_decay,
        weight_decay_mask=is_decayed,
        muon_weight_dimension_numbers=matrix_dimensions,
    )


def muon_wsd(
    steps: int,
    *,
    muon_learning_rate: checks.LearningRate = 0.02,
    adam_learning_rate: checks.LearningRate = 0.01,
    warmup_steps: checks.CountOrZero = 20,
    decay_fraction: checks.Fraction = 0.5,
) -> optax.GradientTransformation:
    """`muon` with `warmup_stable_decay` to zero for both learning rates.

    Args:
        muon_learning_rate: peak learning rate of the blocks' matrices, by Muon.
        adam_learning_rate: peak learning rate of all other parameters, by Adam.
        warmup_steps: steps in which both learning rates rise.
        decay_fraction: last fraction of the steps, in which both fall to zero.
    """
    schedule = partial(
        warmup_stable_decay, steps=steps, warmup=warmup_steps, decay=decay_fraction
    )
    return muon(schedule(muon_learning_rate), schedule(adam_learning_rate))


def matrix_dimensions(params: Any) -> Any:
    """Input and output axes of each matrix within the residual stream, None for other
    leaves. Raises ValueError for dimensions that are not in the tables above."""

    def of_leaf(path: Sequence[Any], leaf: Any) -> MuonDimensionNumbers | None:
        if not _is_matrix(path):
            return None
        letters = dimensions(leaf_name(path))
        if letters in OUTER:
            return None
        if letters not in INPUTS_OUTPUTS:
            known = sorted((*INPUTS_OUTPUTS, *OUTER))
            raise ValueError(
                f"{leaf_name(path)}: expected dimensions among {known}, got {letters}"
            )
        lead = leaf.ndim - len(letters)
        inputs, outputs = (
            tuple(lead + letters.index(letter) for letter in side)
            for side in INPUTS_OUTPUTS[letters]
        )
        return MuonDimensionNumbers(inputs, outputs)

    return jax.tree_util.tree_map_with_path(of_leaf, params)
