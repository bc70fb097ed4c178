"""Counts what a reader of the default run has to open; prints three lists as JSON.

    python tests/house/walk.py

`imported`: modules of the project that `import experiments.language_model` loads.
`imported_by_training`: those loaded once the training loop is imported as well.
`entered`: files of the project whose functions are called while the experiment is
constructed, one batch placed on the mesh and one update traced; and of these
`entered_by_update`: while one batch is made and one update traced.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transformer", "experiments")


def project_modules() -> list[str]:
    """Modules of the project that are loaded now."""
    return sorted(name for name in sys.modules if name.split(".")[0] in ROOMS)


def entered_files(call: Callable[[], Any]) -> tuple[Any, set[str]]:
    """The value of `call()`, and the files of the project whose functions it calls."""
    filenames: set[str] = set()

    def profile(frame: Any, event: str, _: Any) -> None:
        # Not optimized: the body of a module or of a class, at its import.
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            filenames.add(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        value = call()
    finally:
        sys.setprofile(None)
    rooms = tuple(f"{ROOT}/{room}/" for room in ROOMS)
    return value, {
        filename.removeprefix(f"{ROOT}/")
        for filename in filenames
        if filename.startswith(rooms)
    }


def main() -> None:
    """Print the lists of the default experiment."""
    from experiments import language_model

    imported = project_modules()

    import jax

    from transformer import launch
    from transformer.training import batching, loop, update, workdir

    assert loop and workdir, "what the verb train imports"
    imported_by_training = project_modules()
    mesh = launch.parse_mesh("")
    with jax.set_mesh(mesh):
        experiment, construct = entered_files(language_model.experiment)
        rows = range(experiment.batch_size)
        host_batch, make_batch = entered_files(lambda: experiment.batch(0, rows))
        _, place_batch = entered_files(
            lambda: batching.sharded_batches(
                experiment.batch, experiment.batch_size, mesh
            )(0)
        )
        state = jax.eval_shape(lambda: update.init_state(experiment))
        _, trace = entered_files(
            lambda: jax.make_jaxpr(lambda s, b: update.update(experiment, s, b))(
                state, host_batch
            )
        )
    lists = {
        "imported": imported,
        "imported_by_training": imported_by_training,
        "entered": sorted(construct | make_batch | place_batch | trace),
        "entered_by_update": sorted(make_batch | trace),
    }
    print(json.dumps(lists))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
