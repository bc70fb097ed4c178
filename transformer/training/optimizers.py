"""Optimizers of the experiments and their learning rate schedules.

The functions `f(steps, *, ...)` fit the slot `optimizer` of an experiment; their
keywords are its flags. Weight decay and orthogonalization follow from a parameter's
name, never from its rank: a scanned stack adds a leading dimension to every leaf.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from transformer import axes, checks
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


def decay_length(steps: int, fraction: float) -> int:
    """The number of steps in the last `fraction` of them, at least 1."""
    return max(1, round(fraction * steps))


def warmup_stable_decay(
    peak: float, *, steps: int, warmup: int, decay: float = 0.2, final: float = 0.0
) -> optax.Schedule:
    """Linear warm-up to `peak` in `warmup` steps, constant, then linear decay to
    final * peak over the last fraction `decay` of the steps (WSD, Hu et al. 2024,
    arXiv 2404.06395)."""
    falling = decay_length(steps, decay)
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
    b2: checks.ProperFraction = 0.99,
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
    scanned layer by itself. On a mesh these products are divided over the devices.
    """
    alone = optax.contrib.muon(
        muon_learning_rate,
        adam_learning_rate=adam_learning_rate,
        adam_b2=0.95,
        weight_decay=weight_decay,
        weight_decay_mask=is_decayed,
        muon_weight_dimension_numbers=matrix_dimensions,
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if axes.is_one_device():
            return alone.update(updates, state, params)
        from transformer.training import sharded_muon

        sharded = sharded_muon.muon(
            muon_learning_rate,
            adam_learning_rate,
            matrix_dimensions,
            weight_decay=weight_decay,
            is_decayed=is_decayed,
        )
        return sharded.update(updates, state, params)

    return optax.GradientTransformation(alone.init, update)


class ScheduledOptimizer(optax.GradientTransformation):
    """An optax pair (`init`, `update`) that says when its learning rate begins to fall.

    decay_step: updates up to this one do not depend on the number of steps, so that a
    run goes on from there with more of them.
    """

    decay_step: int | None = None


def set_decay_step(
    pair: optax.GradientTransformation, decay_step: int | None
) -> ScheduledOptimizer:
    """A copy of `pair` with its `decay_step`."""
    made = ScheduledOptimizer(pair.init, pair.update)
    made.decay_step = decay_step
    return made


def wrap(
    optimizer: Any,
    *,
    freeze: str = "",
    ema_decay: float = 0.0,
    state_dtype: str = "float32",
    seed: int = 0,
) -> Any:
    """`optimizer` that leaves the parameters alone whose path `freeze` matches (a
    regular expression, empty for none), averages all where `ema_decay` is not 0, and
    has its moments, but not the average, in `state_dtype`."""
    step = getattr(optimizer, "decay_step", None)
    pair = optax.GradientTransformation(optimizer.init, optimizer.update)
    if state_dtype == "bfloat16":
        from transformer.training import narrow_state

        pair = narrow_state.keep_in_bfloat16(pair, seed=seed)
    if freeze:
        pair = _freeze(pair, freeze)
    if ema_decay:
        pair = _average(pair, ema_decay)
    return set_decay_step(pair, step)


def _freeze(optimizer: Any, pattern: str) -> optax.GradientTransformation:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--freeze: expected a regular expression, got {pattern!r}: {error}"
        ) from None

    def path_of(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator="/")

    def init(params: Any) -> Any:
        paths = [path_of(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        if not any(map(regex.search, paths)):
            raise ValueError(
                "--freeze: expected a regular expression of parameter paths such as "
                f"{paths[0]}, got {pattern!r}, which matches none of {len(paths)}"
            )
        if all(map(regex.search, paths)):
            raise ValueError(
                f"--freeze: expected a parameter that is trained, got {pattern!r}, "
                f"which matches all of {len(paths)}"
            )
        return optimizer.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        change, state = optimizer.update(updates, state, params)
        change = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * 0 if regex.search(path_of(path)) else leaf, change
        )
        return change, state

    return optax.GradientTransformation(init, update)


class AverageState(NamedTuple):
    """The state of the optimizer, the moving average of the parameters, and the number
    of updates."""

    inner: Any
    average: Any
    count: jax.Array


def _average(optimizer: Any, decay: float) -> optax.GradientTransformation:
    """Keep average <- decay * average + (1 - decay) * params after each update (Polyak
    and Juditsky 1992), from the initial parameters on; while n updates are few, decay
    is at most (1 + n) / (10 + n), so that these are forgotten."""

    def init(params: Any) -> AverageState:
        return AverageState(optimizer.init(params), params, jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        inner, average, count = state
        change, inner = optimizer.update(updates, inner, params)
        now = jnp.minimum(decay, (1 + count) / (10 + count))
        average = jax.tree.map(
            lambda old, new, by: now * old + (1 - now) * (new + by),
            average,
            params,
            change,
        )
        return change, AverageState(inner, average, count + 1)

    return optax.GradientTransformation(init, update)


def average_of(optimizer_state: Any) -> Any:
    """The moving average of the parameters in an optimizer's state, or None."""
    is_average = isinstance(optimizer_state, AverageState)
    return optimizer_state.average if is_average else None


def muon_wsd(
    steps: int,
    *,
    muon_learning_rate: checks.LearningRate = 0.02,
    adam_learning_rate: checks.LearningRate = 0.01,
    warmup_steps: checks.CountOrZero = 20,
    decay_fraction: checks.Fraction = 0.5,
) -> ScheduledOptimizer:
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
    pair = muon(schedule(muon_learning_rate), schedule(adam_learning_rate))
    stable = steps - decay_length(steps, decay_fraction)
    # A warm-up that is cut short depends on the number of steps as well.
    return set_decay_step(pair, stable if warmup_steps <= stable else 0)


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
