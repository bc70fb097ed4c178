"""Metrics of each step to records, one step behind the device."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.training import comparison, duration, faults, flops, metrics
from transformer.training.experiment import Experiment
from transformer.training.update import StepMetrics

# Between these steps of a start the time of a step is measured; compilation and what
# warms up are before.
TIMED_STEPS = (2, 6)
# Of fewer steps nobody asks how long they will take while they are compiled.
ANNOUNCED_STEPS = 100


class StepLogger:
    """Reads the metrics of step n after step n + 1 was dispatched, checks that they are
    finite, and records them; every `every` steps it prints their mean."""

    def __init__(
        self, experiment: Experiment, folder: Path, *, first: int, every: int
    ) -> None:
        self._experiment, self._folder, self._first = experiment, folder, first
        self._every = every
        self._pending: tuple[int, StepMetrics] | None = None
        self._window: list[Any] = []
        self._flops = 0.0
        self._since = time.perf_counter()
        self._timed_since = math.nan
        self._finite = (first, float("nan"))
        is_first_process = jax.process_index() == 0
        self._log = (
            metrics.Log(folder, first=first, steps=experiment.steps)
            if is_first_process
            else None
        )
        if self._log is not None and experiment.steps - first >= ANNOUNCED_STEPS:
            self._announce(experiment.steps - first)

    def _announce(self, steps: int) -> None:
        self._count_cost()
        work = self._experiment.batch_size * self._flops
        low, high = map(duration.text, duration.bounds(steps, work))
        print(
            f"between {low} and {high} to the last step, {self._experiment.steps}, by "
            f"its matrix products; timed after {TIMED_STEPS[1]} steps",
            flush=True,
        )

    def log_async(self, step: int, step_metrics: StepMetrics) -> None:
        """Keep the metrics of `step` on the device; record those of the step before."""
        self.flush()
        self._pending = step, step_metrics

    def flush(self) -> None:
        """Record the pending step. Raises faults.NonFinite."""
        if self._pending is None:
            return
        (step, step_metrics), self._pending = self._pending, None
        loss, norms = jax.device_get(step_metrics)
        self._estimate(step)
        if loss.weight:
            self._record(step, loss, norms)
        elif self._log is not None:
            print(f"warning: step {step}: no target is scored: no gradient", flush=True)
        if step % self._every == 0 or step == self._experiment.steps:
            self._print_mean(step)

    def _record(self, step: int, loss: Any, norms: Any) -> None:
        mean = float(loss.total) / float(loss.weight)
        faults.check_finite(step, mean, norms, self._finite)
        self._finite = step, mean
        total = math.sqrt(sum(float(np.square(n)) for n in jax.tree.leaves(norms)))
        numbers = {**self._experiment.metrics(loss), "gradient_norm": total}
        self._window.append(loss)
        if self._log is not None:
            self._log.write(step, "train", numbers)

    def _estimate(self, step: int) -> None:
        """Early in the run, how long it will take on this machine."""
        start, stop = (self._first + number for number in TIMED_STEPS)
        if step == start:
            self._timed_since = time.perf_counter()
        left = self._experiment.steps - step
        if step == stop and left > stop - start and self._log is not None:
            seconds = (time.perf_counter() - self._timed_since) / (stop - start)
            line = f"step {step:>6}  about {duration.text(left * seconds)}"
            print(f"{line} to the last step, {self._experiment.steps}", flush=True)

    def _print_mean(self, step: int) -> None:
        if not self._window:
            return
        seconds = (time.perf_counter() - self._since) / len(self._window)
        rows = self._experiment.batch_size / seconds
        total = jax.tree.map(lambda *losses: sum(losses), *self._window)
        numbers = {
            **self._experiment.metrics(total),
            "tokens/s": rows * self._experiment.tokens_per_row,
        }
        if self._log is not None:
            # Counted while the device computes the next step.
            if not self._flops:
                self._count_cost()
            numbers["FLOP/s"] = rows * self._flops
            self._log.print_line(step, "train", numbers)
        self._window, self._since = [], time.perf_counter()

    def _count_cost(self) -> None:
        experiment = self._experiment
        self._flops = flops.per_row(experiment)
        tokens = experiment.batch_size * experiment.tokens_per_row
        comparison.write_cost(
            self._folder, self._first, tokens, experiment.batch_size * self._flops
        )

    def log_evaluation(
        self, step: int, evaluations: dict[str, dict[str, float]]
    ) -> None:
        """Record the metrics of each evaluation, by its name."""
        self.flush()
        for kind, values in evaluations.items():
            if self._log is not None:
                self._log.write(step, kind, values)
                self._log.print_line(step, kind, values)
        self._since = time.perf_counter()

    def sync(self) -> None:
        """Upload the records where the run folder is in an object store: resuming from
        a checkpoint needs those before it."""
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Record the last step and close the files."""
        self.flush()
        if self._log is not None:
            self._log.close()
