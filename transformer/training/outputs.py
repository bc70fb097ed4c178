"""What a run leaves on its steps: logs, evaluations, checkpoints, a profile."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from transformer import storage
from transformer.training import checkpoint, evaluation, faults, workdir
from transformer.training.experiment import Experiment
from transformer.training.profiling import Profiler
from transformer.training.step_log import StepLogger
from transformer.training.update import State


class Outputs:
    """The outputs of one start of a run from step `start`.

    The checkpoints kept are the newest ones, the last before the learning rate falls,
    and the best: that of the lowest loss of the first evaluation, named in best.json.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        checkpoints: checkpoint.Checkpoints,
        *,
        intervals: Any,
        mesh: Mesh,
        start: int,
    ) -> None:
        self._experiment, self._folder, self._mesh = experiment, folder, mesh
        self._checkpoints, self._intervals = checkpoints, intervals
        self._record_files = workdir.read_files(folder)
        self._logger = StepLogger(experiment, folder, first=start, every=intervals.log)
        self._profiler = Profiler(folder, intervals.profile)
        first = intervals.profile.start
        if 0 < first <= start and jax.process_index() == 0:
            print(f"note: no trace: step {first} was taken before", flush=True)
        self._best = _read_best(folder, start)
        checkpoints.pin(experiment.decay_step, self._best[0])

    def begin_step(self, step: int) -> None:
        """Call before `step` is computed."""
        self._profiler.begin_step(step)

    def end_step(self, step: int, state: State, metrics: Any) -> None:
        """Call when `step` is dispatched: log, evaluate and save on their steps."""
        self._logger.log_async(step, metrics)
        self._profiler.end_step(step, metrics)
        faults.arm_watchdog()
        self.evaluate(step, state)
        last = step in (self._experiment.steps, self._experiment.decay_step)
        if last or step % self._intervals.checkpoint == 0:
            self.save(state)

    def evaluate(self, step: int, state: State) -> None:
        """Evaluate, on its steps and the last one; save what is the best so far."""
        every = self._intervals.evaluate
        if not step or (step % every and step != self._experiment.steps):
            return
        self._logger.flush()
        results = evaluation.evaluate_state(self._experiment, state, self._mesh)
        self._logger.log_evaluation(step, results)
        first = next(iter(results), "")
        loss = results.get(first, {}).get("loss", math.inf)
        before, lowest = self._best
        if loss < lowest:
            self._best = step, loss
            self._checkpoints.pin(step)
            self.save(state)
            if before != self._experiment.decay_step:
                self._checkpoints.unpin(before)
            self._write_best(first)

    def _write_best(self, evaluation_name: str) -> None:
        step, loss = self._best
        content = {"step": step, "evaluation": evaluation_name, "loss": loss}
        if jax.process_index() == 0:
            path = self._folder / checkpoint.BEST
            storage.commit(path, json.dumps(content).encode())

    def save(self, state: State) -> None:
        """Save `state` in the background. Raises faults.NonFinite and OSError."""
        self._logger.flush()
        faults.arm_watchdog(compiling=True)
        faults.check_params_finite(int(state.step), state.params)
        workdir.write_missing(self._folder, self._record_files)
        self._logger.sync()
        self._checkpoints.save(state)
        faults.arm_watchdog()

    def close(self) -> None:
        """Wait for what is being written."""
        self._profiler.stop()
        self._checkpoints.close()
        self._logger.close()


def _read_best(folder: Path, start: int) -> tuple[int | None, float]:
    """Step and loss of the best checkpoint so far, unless it is after `start`."""
    file = folder / checkpoint.BEST
    if not file.exists():
        return None, math.inf
    best = storage.read_json(file, {"step": int, "loss": float})
    return (best["step"], best["loss"]) if best["step"] <= start else (None, math.inf)
