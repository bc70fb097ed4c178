"""The loop: batch, update, and on their steps evaluate and save."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from transformer import axes, storage
from transformer.checks import at_least
from transformer.training import (
    batching,
    checkpoint,
    compiler_options,
    faults,
    memory,
    optimizers,
    remat,
    signals,
)
from transformer.training.experiment import Experiment
from transformer.training.outputs import Outputs
from transformer.training.update import (
    State,
    abstract_state,
    init_sharded_state,
    state_shardings,
    update,
)


class Intervals(NamedTuple):
    """Steps between two logs, evaluations and checkpoints; the last step does all.

    profile: the steps of which a trace is left (`profiling`).
    """

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 200
    profile: range = range(0)


DEFAULT_INTERVALS = Intervals()


def checkpoint_identity(experiment: Experiment) -> checkpoint.Identity:
    """The identity of the experiment's checkpoints."""
    hashes = (
        f"{name} {storage.short_hash(content)}"
        for name, content in sorted(experiment.extra_files.items())
    )
    return checkpoint.Identity(
        experiment.name, experiment.fingerprint, ", ".join(hashes)
    )


def first_state(experiment: Experiment, mesh: Mesh) -> State:
    """The state before the first step, with the parameters of the experiment's
    `warm_start`."""
    state = init_sharded_state(experiment, mesh)
    if experiment.warm_start is None:
        return state
    params = experiment.warm_start.apply(state.params)
    return init_sharded_state(experiment, mesh, params)


def _restore(
    experiment: Experiment, checkpoints: Any, mesh: Mesh, *, which: str = "newest"
) -> State | None:
    restored = checkpoints.restore(abstract_state(experiment, mesh), which=which)
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
    """Raise ValueError, before anything is written, for counts below one, steps of a
    trace after the last one, batches that the mesh does not divide, a state that no
    memory holds, a warm start that does not fit, and checkpoints of another experiment
    or model."""
    counts = {
        "steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "accumulate": experiment.accumulate,
        "log_every": intervals.log,
        "evaluate_every": intervals.evaluate,
        "checkpoint_every": intervals.checkpoint,
    }
    for name, count in counts.items():
        at_least(name, count, 1)
    if intervals.profile.stop - 1 > experiment.steps:
        first, last = intervals.profile.start, intervals.profile.stop - 1
        raise ValueError(
            f"--profile: expected steps up to {experiment.steps}, the last of the run, "
            f"got {first}:{last}"
        )
    batching.check(experiment.batch_size, experiment.accumulate, mesh)
    for name, held_out in experiment.evaluations.items():
        what = f"rows of a batch of the evaluation {name}"
        batching.check(held_out.batch_size, 1, mesh, name=what)
    with memory.limit_init(mesh.size, experiment.gradient_dtype):
        abstract = abstract_state(experiment, mesh)
    memory.check(abstract, experiment.gradient_dtype)
    if experiment.warm_start and not checkpoint.steps(folder / checkpoint.FOLDER):
        experiment.warm_start.check(abstract.params)
    if (folder / checkpoint.FOLDER).exists():
        checkpoint.open_(
            folder / checkpoint.FOLDER, checkpoint_identity(experiment)
        ).close()


def restore_run_state(
    experiment: Experiment, folder: Path, mesh: Mesh, *, which: str = "newest"
) -> State:
    """The state of the newest intact checkpoint, of the best, or of a step. ValueError
    where there is none."""
    checkpoints = checkpoint.open_(
        folder / checkpoint.FOLDER, checkpoint_identity(experiment)
    )
    state = _restore(experiment, checkpoints, mesh, which=which)
    if state is None:
        raise ValueError(f"{checkpoints.folder}: expected a checkpoint, got none")
    return state


def params_of(state: State) -> Any:
    """The parameters of a state, or their moving average where it is kept."""
    average = optimizers.average_of(state.optimizer_state)
    return state.params if average is None else average


def restore_run_params(
    experiment: Experiment, folder: Path, mesh: Mesh, *, which: str = "newest"
) -> Any:
    """`params_of` the state of `restore_run_state`; reads the optimizer state only for
    its average. Where no step is saved, the parameters that the run would start from
    by `init_from`: all of them."""
    abstract = abstract_state(experiment, mesh)
    if experiment.warm_start and not checkpoint.steps(folder / checkpoint.FOLDER):
        return experiment.warm_start.load(abstract.params)
    if optimizers.average_of(abstract.optimizer_state) is not None:
        return params_of(restore_run_state(experiment, folder, mesh, which=which))
    return checkpoint.restore_params(
        folder / checkpoint.FOLDER,
        checkpoint_identity(experiment),
        abstract.params,
        which=which,
    )


def jit_update(experiment: Experiment, mesh: Mesh) -> Any:
    """`update` jitted: the state is donated, and sharded as before."""
    return jax.jit(
        partial(update, experiment),
        donate_argnums=0,
        out_shardings=(state_shardings(experiment, mesh), None),
        compiler_options=compiler_options.for_mesh(mesh),
    )


def compile_update(experiment: Experiment, mesh: Mesh, state: State, batch: Any) -> Any:
    """The program of `jit_update`, compiled; until a device can hold it with the remat
    policies that recompute more, and then, with `accumulate_to_fit`, of twice as many
    microbatches, which a line says.

    Raises faults.OutOfMemory, or the compiler's error, where it cannot.
    """
    try:
        update = jit_update(experiment, mesh)
        program = faults.compile_program(update, state, batch)
        memory.check_program(program)
        return program
    except Exception as error:
        more = remat.after(experiment) or _divide(experiment, mesh)
        if more is None or not faults.is_out_of_memory(error):
            raise
    if jax.process_index() == 0:
        how = f"{more.accumulate} microbatches"
        if more.accumulate == experiment.accumulate:
            how = f"remat {remat.policy(more)}"
        print(f"a device cannot hold the step: {how}", flush=True)
    return compile_update(more, mesh, state, batch)


def _divide(experiment: Experiment, mesh: Mesh) -> Experiment | None:
    """In twice as many microbatches, if that may be."""
    count = 2 * experiment.accumulate
    divides = experiment.batch_size % (count * axes.batch_shards(mesh)) == 0
    may = experiment.accumulate_to_fit and divides
    return experiment._replace(accumulate=count) if may else None


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
    faults.NonFinite before anything after the last finite step is saved, and
    faults.OutOfMemory before a step that the memory cannot hold.
    """
    with jax.set_mesh(mesh):
        checkpoints = checkpoint.open_(
            folder / checkpoint.FOLDER, checkpoint_identity(experiment)
        )
        state = _restore(experiment, checkpoints, mesh)
        start = 0 if state is None else int(state.step)
        if state is not None:
            print(f"resuming from step {start}", flush=True)
        outputs = Outputs(
            experiment,
            folder,
            checkpoints,
            intervals=intervals,
            mesh=mesh,
            start=start,
        )
        # After what says how long the run will take: it is compiled.
        state = first_state(experiment, mesh) if state is None else state
        program: Any = None
        faults.arm_watchdog()
        batch_at = batching.sharded_batches(
            experiment.batch, experiment.batch_size, mesh
        )
        batches = batching.prefetch(batch_at, range(start, experiment.steps))
        try:
            # Resuming dropped the records of the evaluation at `start`, which may have
            # been cut off (`metrics.truncate`): do it again.
            outputs.evaluate(start, state)
            # Batches and random keys count steps from 0; records, logs and checkpoints
            # from 1, the number of updates done.
            for step, batch in enumerate(batches, start + 1):
                if signals.stop_requested():
                    raise signals.Termination
                if program is None:
                    program = compile_update(experiment, mesh, state, batch)
                outputs.begin_step(step)
                with jax.transfer_guard("disallow"):
                    state, metrics = program(state, batch)
                outputs.end_step(step, state, metrics)
        except signals.Termination:
            if int(state.step) not in checkpoints.steps():
                outputs.save(state)
            raise
        except ValueError as error:
            # Bad input was refused before: this is a fault, and shows its traceback.
            raise RuntimeError("training failed") from error
        finally:
            faults.arm_watchdog(compiling=True)
            batches.close()
            outputs.close()
            faults.disarm_watchdog()
    return state
