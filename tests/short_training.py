"""A few training steps of an experiment, in this process."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.training import update
from transformer.training.experiment import Experiment


class Short(NamedTuple):
    """Parameters after the steps, and the loss of each step."""

    params: Any
    losses: list[float]

    def ratio(self, steps: int) -> float:
        """The mean loss of the last `steps` steps over that of the first ones."""
        return float(np.mean(self.losses[-steps:]) / np.mean(self.losses[:steps]))


def train(experiment: Experiment) -> Short:
    """All steps of `experiment`."""
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda state, batch: update.update(experiment, state, batch))
    losses = []
    for step in range(experiment.steps):
        batch = experiment.batch(step, range(experiment.batch_size))
        state, step_metrics = advance(state, batch)
        losses.append(experiment.metrics(step_metrics.loss)["loss"])
    return Short(state.params, losses)
