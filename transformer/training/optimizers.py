"""Optimizer recipes: optax chains in the order in which they act, and schedules.

What decays and what is orthogonalised is decided by a parameter's name, never by its
rank: a scanned stack adds a leading dimension to every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from transformer.axes import dimensions, leaf_name

# How the dimensions of a weight divide into inputs and outputs of its linear map; what
# is in neither, the experts, are maps of their own.
INPUTS_OUTPUTS = {
    "DHK": ("D", "HK"),
    "DGK": ("D", "GK"),
    "HKD": ("HK", "D"),
    "DF": ("D", "F"),
    "FD": ("F", "D"),
    "EDF": ("D", "F"),
    "EFD": ("F", "D"),
    "DE": ("D", "E"),
}
# Into the first layer, out of the last and from a condition: Muon is for maps within
# the stream (Jordan et al. 2024).
OUTER = ("PD", "DP", "JD")


def warmup_cosine(
    peak: float, *, steps: int, warmup: int, final: float = 0.1
) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, the first of which moves too, then half a cosine
    down to final * peak after `steps`."""
    warmup = max(1, min(warmup, steps))
    falling = optax.cosine_decay_schedule(peak, max(steps - warmup + 1, 1), final)
    return optax.join_schedules([_rising(peak, warmup), falling], [warmup - 1])


def warmup_stable_decay(
    peak: float, *, steps: int, warmup: int, decay: float = 0.2, final: float = 0.0
) -> optax.Schedule:
    """Up to `peak` in `warmup` steps, level, then linearly to final * peak over the
    last `decay` share of the steps (WSD, Hu et al. 2024, arXiv 2404.06395)."""
    falling = max(1, round(decay * steps))
    warmup = min(warmup, steps - falling)
    pieces = [
        _rising(peak, max(warmup, 1)),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, final * peak, falling),
    ]
    return optax.join_schedules(pieces, [warmup, steps - falling])


def _rising(peak: float, warmup: int) -> optax.Schedule:
    """peak / warmup, ..., peak, in `warmup` steps: never 0, which moves nothing."""
    return lambda step: peak * jnp.minimum((step + 1) / warmup, 1.0)


def decays(params: Any) -> Any:
    """True for the matrices of linear maps: names `w_...` with two letters or more."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_matrix(path), params)


def _is_matrix(path: Sequence[Any]) -> bool:
    name = leaf_name(path)
    return name.startswith("w_") and len(dimensions(name)) > 1


def adamw(
    rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.1,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.95,
) -> optax.GradientTransformation:
    """Clipped gradients, Adam, decay of the matrices (Loshchilov and Hutter 2017,
    arXiv 1711.05101)."""
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(decay, mask=decays),
        optax.scale_by_learning_rate(rate),
    )


def muon(
    matrix_rate: optax.ScalarOrSchedule,
    vector_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.0,
) -> optax.GradientTransformation:
    """Muon for the matrices of linear maps, Adam for all else (Jordan et al. 2024;
    Liu et al. 2025, arXiv 2502.16982).

    A weight is orthogonalised as the matrix inputs x outputs of its linear map, each
    scanned layer by itself.
    """
    return optax.contrib.muon(
        matrix_rate,
        adam_learning_rate=vector_rate,
        adam_b2=0.95,
        weight_decay=decay,
        weight_decay_mask=decays,
        muon_weight_dimension_numbers=matrix_dimensions,
    )


def stable_muon(
    steps: int,
    *,
    matrix_rate: float,
    vector_rate: float,
    warmup: int = 20,
    decay: float = 0.5,
) -> optax.GradientTransformation:
    """`muon` with the schedule `warmup_stable_decay` for both rates, down to zero: what
    the experiments train with."""
    shape = partial(warmup_stable_decay, steps=steps, warmup=warmup, decay=decay)
    return muon(shape(matrix_rate), shape(vector_rate))


def matrix_dimensions(params: Any) -> Any:
    """For each leaf which axes are inputs and which outputs; None for what is no
    matrix of a linear map within the stream. Raises ValueError for dimensions it does
    not know."""

    def of(path: Sequence[Any], leaf: Any) -> MuonDimensionNumbers | None:
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

    return jax.tree_util.tree_map_with_path(of, params)
