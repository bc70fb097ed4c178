"""The loop: batch, update, and on their steps evaluate and save."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from transformer.training import (
    batching,
    checkpoint,
    compiling,
    evaluation,
    faults,
    prefetch,
)
from transformer.training.experiment import Experiment
from transformer.training.step_log import Teller
from transformer.training.update import State, abstract, born, update

CHECKPOINTS = "checkpoints"


class Cadence(NamedTuple):
    """How often, in steps, to log, evaluate and save; the last step does all."""

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 200


EVERY = Cadence()


def identity(experiment: Experiment) -> checkpoint.Identity:
    """Whose checkpoints these are."""
    return checkpoint.Identity(experiment.name, experiment.architecture)


def latest(experiment: Experiment, saved: Any, mesh: Mesh) -> State:
    """The newest sound state on disk, or a new one."""
    restored = saved.restore(abstract(experiment, mesh))
    if restored is None:
        return born(experiment, mesh)
    state, passed_over = restored
    for message in passed_over:
        print(f"warning: {message}", flush=True)
    print(f"going on from step {int(state.step)}", flush=True)
    return state


def check(
    experiment: Experiment, folder: Path, *, mesh: Mesh, cadence: Cadence = EVERY
) -> None:
    """Raise ValueError, before anything is written, unless the run can go its way:
    its numbers possible, its batches divisible by the mesh, its folder its own."""
    counts = {
        "steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "accumulate": experiment.accumulate,
        **{f"{name}_every": number for name, number in cadence._asdict().items()},
    }
    for name, number in counts.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    batching.check(experiment.batch_size, experiment.accumulate, mesh)
    for evaluation_ in experiment.evaluations.values():
        batching.check(evaluation_.batch_size, 1, mesh)
    if (folder / CHECKPOINTS).exists():
        checkpoint.open_(folder / CHECKPOINTS, identity(experiment)).close()


def trained(experiment: Experiment, folder: Path, mesh: Mesh) -> Any:
    """The parameters of the newest sound checkpoint. ValueError where there is none."""
    return checkpoint.params_only(
        folder / CHECKPOINTS, identity(experiment), abstract(experiment, mesh).params
    )


def compiled(experiment: Experiment, mesh: Mesh) -> Any:
    """`update` as one program; the old state's memory becomes the new one's."""
    places = jax.tree.map(lambda a: a.sharding, abstract(experiment, mesh))
    return jax.jit(
        partial(update, experiment), donate_argnums=0, out_shardings=(places, None)
    )


def train(
    experiment: Experiment, folder: Path, *, mesh: Mesh, cadence: Cadence = EVERY
) -> State:
    """Train from the newest sound checkpoint in `folder`, or from the start, to the
    experiment's last step; return the state, with which a notebook can go on.

    Raises faults.Terminated after SIGTERM, with all that was reached saved, and
    faults.NonFinite before anything after the last finite step is saved.
    """
    with jax.set_mesh(mesh):
        saved = checkpoint.open_(folder / CHECKPOINTS, identity(experiment))
        state = latest(experiment, saved, mesh)
        advance: Any = None
        faults.watch()
        at = batching.fed(experiment.batch, experiment.batch_size, mesh)
        start, steps = int(state.step), experiment.steps
        teller = Teller(experiment, folder, first=start, every=cadence.log)
        batches = prefetch.ahead(at, range(start, steps))

        def measure(done: int, state: State) -> None:
            if done and (done % cadence.evaluate == 0 or done == steps):
                teller.settle()
                numbers = evaluation.measured(experiment, state.params, mesh)
                teller.measured(done, numbers)

        def save(state: State) -> None:
            teller.settle()
            faults.watch(compiling=True)
            faults.check_sound(int(state.step), state.params)
            saved.save(state)
            faults.watch()

        try:
            measure(start, state)
            for done, batch in enumerate(batches, start + 1):
                if faults.asked_to_stop():
                    raise faults.Terminated
                if advance is None:
                    advance = compiling.program(
                        compiled(experiment, mesh), state, batch
                    )
                with jax.transfer_guard("disallow"):
                    state, told = advance(state, batch)
                teller.hear(done, told)
                faults.watch()
                measure(done, state)
                if done % cadence.checkpoint == 0 or done == steps:
                    save(state)
        except faults.Terminated:
            if int(state.step) not in saved.steps():
                save(state)
            raise
        except ValueError as error:
            # Bad input was refused before: this is a fault, and shows its traceback.
            raise RuntimeError("training broke") from error
        finally:
            faults.watch(compiling=True)
            batches.close()
            saved.close()
            teller.close()
            faults.unwatch()
    return state
