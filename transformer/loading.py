"""A run folder as a value: `run = transformer.load("runs/language_model")`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from transformer import checks, command, flags, other_data


class LoadedRun(NamedTuple):
    """What a run left, for a notebook.

    experiment: the value that was trained, by make(**arguments). state: the checkpoint,
    on the mesh. params: its parameters, or their moving average. mesh: all devices.
    """

    folder: Path
    experiment: Any
    state: Any
    params: Any
    mesh: Any
    make: Any
    arguments: dict[str, Any]

    @property
    def net(self) -> Any:
        """The module: `run.net.apply({"params": run.params}, ...)`."""
        return self.experiment.net

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the run, or None."""
        return self.experiment.tokenizer

    def generate(self, **options: Any) -> Any:
        """What the verb `generate` prints, printed and returned; the options are its
        flags."""
        import jax

        if self.experiment.generate is None:
            raise ValueError(
                f"experiment {self.experiment.name} has nothing to generate"
            )
        key = jax.random.key(self.experiment.seed)
        return self.experiment.generate(self.params, key, **options)

    def evaluate(self, source: str | None = None) -> dict[str, dict[str, float]]:
        """The metrics of every evaluation, by its name; of a `source`, as the verb
        `evaluate` measures it. ValueError where the data of the run is gone."""
        import jax

        from transformer.training import evaluation

        experiment = self.experiment
        if source is not None:
            experiment = other_data.experiment_on_source(
                source, self.make, self.arguments, self.folder
            )
        if not experiment.evaluations:
            raise ValueError(
                f"{self.folder}: expected the data of the run, or other data to "
                "evaluate on, got none"
            )
        with jax.set_mesh(self.mesh):
            return evaluation.evaluate(experiment, self.params, self.mesh)


def load(folder: Path | str, *, checkpoint: str = "newest", **slots: Any) -> Any:
    """The run in `folder`, from the checkpoint `newest`, `best` or a step's number; or
    the `interchange.pretrained.PretrainedModel` of a folder of another library.

    Imports the module that run.json names. slots: those that the run was started with,
    such as `optimizer=lion`, as the record cannot hold a function. Raises ValueError
    where there is no run or no such module.
    """
    import jax

    from transformer import axes
    from transformer.training import declaration, loop, workdir

    folder = checks.parse_path(folder)
    record = workdir.read_record(folder)
    if record is None and command.is_pretrained(folder):
        from transformer import remote_data
        from transformer.interchange import pretrained

        return pretrained.load(remote_data.model_copy(folder))
    if record is None:
        raise ValueError(f"{folder}: expected the folder of a run, got none")
    make = declaration.fill(_experiment_of(folder, record), **slots)
    recorded = command.recorded_flags(folder, make)
    values = flags.from_json(make, {**flags.defaults(make), **recorded})
    experiment = other_data.make_without_data(make, values, folder)
    mesh = axes.make_mesh()
    with jax.set_mesh(mesh):
        state = loop.restore_run_state(experiment, folder, mesh, which=checkpoint)
    params = loop.params_of(state)
    return LoadedRun(folder, experiment, state, params, mesh, make, values)


def _experiment_of(folder: Path, record: dict[str, Any]) -> Any:
    name = record.get("module", "")
    try:
        return importlib.import_module(name).experiment
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}/run.json: expected a module with a function experiment, got "
            f"{name!r}: {error}"
        ) from None
