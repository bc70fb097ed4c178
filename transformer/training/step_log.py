"""From what steps tell to records, one step behind the device."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.training import faults, flops, metrics
from transformer.training.experiment import Experiment
from transformer.training.update import Told


class Teller:
    """Reads step n's numbers after step n + 1 was dispatched, checks that they are
    finite, and records them; every `every` steps it tells the terminal their mean."""

    def __init__(
        self, experiment: Experiment, folder: Path, *, first: int, every: int
    ) -> None:
        self._experiment = experiment
        self._every = every
        self._pending: tuple[int, Told] | None = None
        self._window: list[Any] = []
        self._flops = 0.0
        self._since = time.perf_counter()
        self._finite = (first, float("nan"))
        leads = jax.process_index() == 0
        self._log = (
            metrics.Log(folder, first=first, steps=experiment.steps) if leads else None
        )

    def hear(self, step: int, told: Told) -> None:
        """What `step` told, still on the device; the step before is read now."""
        self.settle()
        self._pending = step, told

    def settle(self) -> None:
        """Read what is still on the device. Raises faults.NonFinite."""
        if self._pending is None:
            return
        (step, told), self._pending = self._pending, None
        loss, norms = jax.device_get(told)
        mean = float(loss.total) / float(loss.weight)
        faults.check_finite(step, mean, norms, self._finite)
        self._finite = step, mean
        total = math.sqrt(sum(float(np.square(n)) for n in jax.tree.leaves(norms)))
        numbers = {**self._experiment.report(loss), "gradient_norm": total}
        self._window.append(loss)
        if self._log is not None:
            self._log.write(step, "train", numbers)
        if step % self._every == 0 or step == self._experiment.steps:
            self._tell(step)

    def _tell(self, step: int) -> None:
        seconds = (time.perf_counter() - self._since) / len(self._window)
        rows = self._experiment.batch_size / seconds
        summed = jax.tree.map(lambda *sums: sum(sums), *self._window)
        numbers = {
            **self._experiment.report(summed),
            "tokens/s": rows * self._experiment.tokens_per_row,
        }
        if self._log is not None:
            # Counted while the device is at work on the next step.
            self._flops = self._flops or flops.per_row(self._experiment)
            numbers["FLOP/s"] = rows * self._flops
            self._log.tell(step, "train", numbers)
        self._window, self._since = [], time.perf_counter()

    def measured(self, step: int, numbers: dict[str, dict[str, float]]) -> None:
        """Record an evaluation: its name to its numbers."""
        self.settle()
        for kind, values in numbers.items():
            if self._log is not None:
                self._log.write(step, kind, values)
                self._log.tell(step, kind, values)
        self._since = time.perf_counter()

    def close(self) -> None:
        """Read the last step and flush."""
        self.settle()
        if self._log is not None:
            self._log.close()
