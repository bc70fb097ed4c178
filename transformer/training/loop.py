"""The loop: batch, update, and on their steps evaluate and save."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from transformer.checks import at_least
from transformer.training import (
    batching,
    checkpoint,
    evaluation,
    faults,
    optimizers,
    signals,
    workdir,
)
from transformer.training.experiment import Experiment
from transformer.training.step_log import StepLogger
from transformer.training.update import (
    State,
    abstract_state,
    init_sharded_state,
    state_shardings,
    update,
)

CHECKPOINTS = "checkpoints"


class Intervals(NamedTuple):
    """Steps between two logs, evaluations and checkpoints; the last step does all."""

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 200


DEFAULT_INTERVALS = Intervals()


def checkpoint_identity(experiment: Experiment) -> checkpoint.Identity:
    """The identity of the experiment's checkpoints."""
    return checkpoint.Identity(experiment.name, experiment.fingerprint)


def restore_or_init(experiment: Experiment, checkpoints: Any, mesh: Mesh) -> State:
    """The state of the newest intact checkpoint, or the state before the first step,
    with the parameters of the experiment's `warm_start`."""
    state = _restore(experiment, checkpoints, mesh)
    if state is None:
        state = init_sharded_state(experiment, mesh)
        if experiment.warm_start is None:
            return state
        params = experiment.warm_start(state.params)
        return init_sharded_state(experiment, mesh, params)
    print(f"resuming from step {int(state.step)}", flush=True)
    return state


def _restore(experiment: Experiment, checkpoints: Any, mesh: Mesh) -> State | None:
    restored = checkpoints.restore(abstract_state(experiment, mesh))
    if restored is None:
        return None
    state, skipped = restored
    for message in skipped:
        print(f"warning: {message}", flush=True)
    return state


def check(
    experiment: Experiment,
    folder: Path,
    *,
    mesh: Mesh,
    intervals: Intervals = DEFAULT_INTERVALS,
) -> None:
    """Raise ValueError, before anything is written, for counts below one, batches that
    the mesh does not divide, and checkpoints of another experiment or model."""
    counts = {
        "steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "accumulate": experiment.accumulate,
        **{f"{name}_every": steps for name, steps in intervals._asdict().items()},
    }
    for name, count in counts.items():
        at_least(name, count, 1)
    batching.check(experiment.batch_size, experiment.accumulate, mesh)
    for held_out in experiment.evaluations.values():
        batching.check(held_out.batch_size, 1, mesh)
    if (folder / CHECKPOINTS).exists():
        checkpoint.open_(folder / CHECKPOINTS, checkpoint_identity(experiment)).close()


def finished_state(experiment: Experiment, folder: Path, mesh: Mesh) -> State:
    """The state of the newest intact checkpoint. ValueError where there is none."""
    checkpoints = checkpoint.open_(
        folder / CHECKPOINTS, checkpoint_identity(experiment)
    )
    state = _restore(experiment, checkpoints, mesh)
    if state is None:
        raise ValueError(f"{checkpoints.folder}: expected a checkpoint, got none")
    return state


def finished_params(experiment: Experiment, folder: Path, mesh: Mesh) -> Any:
    """Parameters of the newest intact checkpoint, or their moving average where it is
    kept. ValueError where there is none."""
    if optimizers.average_of(abstract_state(experiment, mesh).optimizer_state):
        state = finished_state(experiment, folder, mesh)
        return optimizers.average_of(state.optimizer_state)
    return checkpoint.restore_params(
        folder / CHECKPOINTS,
        checkpoint_identity(experiment),
        abstract_state(experiment, mesh).params,
    )


def jit_update(experiment: Experiment, mesh: Mesh) -> Any:
    """`update` jitted: the state is donated, and sharded as before."""
    return jax.jit(
        partial(update, experiment),
        donate_argnums=0,
        out_shardings=(state_shardings(experiment, mesh), None),
    )


def train(
    experiment: Experiment,
    folder: Path,
    *,
    mesh: Mesh,
    intervals: Intervals = DEFAULT_INTERVALS,
) -> State:
    """Train from the newest intact checkpoint in `folder`, or from the start, to the
    experiment's last step; return the state, with which a notebook can continue.

    Raises signals.Termination after a signal, with the last step saved, and
    faults.NonFinite before anything after the last finite step is saved.
    """
    with jax.set_mesh(mesh):
        checkpoints = checkpoint.open_(
            folder / CHECKPOINTS, checkpoint_identity(experiment)
        )
        checkpoints.pin(experiment.decay_step)
        state = restore_or_init(experiment, checkpoints, mesh)
        program: Any = None
        faults.arm_watchdog()
        batch_at = batching.sharded_batches(
            experiment.batch, experiment.batch_size, mesh
        )
        start, steps = int(state.step), experiment.steps
        record_files = workdir.read_files(folder)
        logger = StepLogger(experiment, folder, first=start, every=intervals.log)
        batches = batching.prefetch(batch_at, range(start, steps))

        def evaluate(done: int, state: State) -> None:
            if done and (done % intervals.evaluate == 0 or done == steps):
                logger.flush()
                metrics = evaluation.evaluate_state(experiment, state, mesh)
                logger.log_evaluation(done, metrics)

        def save(state: State) -> None:
            logger.flush()
            faults.arm_watchdog(compiling=True)
            faults.check_params_finite(int(state.step), state.params)
            workdir.write_missing(folder, record_files)
            checkpoints.save(state)
            faults.arm_watchdog()

        try:
            evaluate(start, state)
            for done, batch in enumerate(batches, start + 1):
                if signals.stop_requested():
                    raise signals.Termination
                if program is None:
                    program = faults.compile_program(
                        jit_update(experiment, mesh), state, batch
                    )
                with jax.transfer_guard("disallow"):
                    state, metrics = program(state, batch)
                logger.log_async(done, metrics)
                faults.arm_watchdog()
                evaluate(done, state)
                if done % intervals.checkpoint == 0 or done in (
                    steps,
                    experiment.decay_step,
                ):
                    save(state)
        except signals.Termination:
            if int(state.step) not in checkpoints.steps():
                save(state)
            raise
        except ValueError as error:
            # Bad input was refused before: this is a fault, and shows its traceback.
            raise RuntimeError("training failed") from error
        finally:
            faults.arm_watchdog(compiling=True)
            batches.close()
            checkpoints.close()
            logger.close()
            faults.disarm_watchdog()
    return state
