"""A training run as a value: a tuple of pure functions over a parameter pytree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

Params = Any
Batch = dict[str, np.ndarray]
LossOf = Callable[[Params, Any, jax.Array], Any]
BatchOf = Callable[[int, Sequence[int]], Batch]


class Evaluation(NamedTuple):
    """One measurement on held-out data: the loss summed over `batches` batches.

    batch(step, rows): those rows of batch number `step`. report: from the summed Loss
    to named numbers.
    """

    batch: BatchOf
    batch_size: int
    batches: int
    loss: LossOf
    report: Callable[[Any], dict[str, float]]


class Experiment(NamedTuple):
    """A run. Everything in it is a function or a number; nothing has state.

    init(key) -> params: nested dictionaries of float32 arrays.
    loss(params, batch, key) -> Loss(total, weight, sums).
    batch(step, rows) -> those rows of the step's global batch, 0 .. batch_size - 1.
    optimizer: an optax pair. steps: of training. accumulate: parts that a batch is
    divided into, one after another. seed: of the parameters and the steps' keys.
    report(Loss) -> named numbers.
    show(params, key) -> file name to content (text, bytes, image array, figure, or
    numbers by name, which are told at the end of the run).
    generate(params, key, *, ...): its keywords are the flags of the verb `generate`.
    files: left in the run folder at the start. architecture: what the model is, for
    telling run folders apart. flops_per_row: of a forward and backward pass;
    0 to have them counted (`flops.py`).
    benchmark: further lines of the verb `benchmark`, each a function of params.
    """

    name: str
    architecture: str
    init: Callable[[jax.Array], Params]
    loss: LossOf
    batch: BatchOf
    batch_size: int
    optimizer: optax.GradientTransformation
    steps: int
    report: Callable[[Any], dict[str, float]]
    accumulate: int = 1
    seed: int = 0
    evaluations: Mapping[str, Evaluation] = {}
    show: Callable[[Params, jax.Array], Mapping[str, Any]] = lambda params, key: {}
    generate: Callable[..., Any] | None = None
    files: Mapping[str, bytes] = {}
    tokens_per_row: int = 1
    flops_per_row: float = 0.0
    benchmark: Mapping[str, Callable[[Params], Mapping[str, float]]] = {}
