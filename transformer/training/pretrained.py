"""A trained model for another experiment to use: trained once, loaded afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from transformer import axes, flags, storage
from transformer.training import loop, workdir
from transformer.training.experiment import Experiment


def load_or_train(
    experiment: Callable[..., Experiment], folder: Path | None, *, version: str
) -> tuple[Experiment, Any]:
    """The experiment of the run in `folder`, and its parameters on the host; where that
    is None, those of a run with default flags in the user's cache folder, which is
    trained first where there is none.

    version: text that changes when a default run would, such as the identity of the
    data. Trains on the first device; among several processes on a CPU.
    """
    if folder is None and jax.process_count() > 1:
        _train_alone(experiment, version)
    mesh = axes.make_mesh(devices=jax.local_devices()[:1])
    values = flags.defaults(experiment)

    def train(empty: Path) -> None:
        default = experiment()
        print(f"training {default.name}, once", flush=True)
        source_code = workdir.source_code_of(experiment)
        recorded = {k: v for k, v in values.items() if k != "workdir"}
        workdir.write_record(empty, default, flags.to_json(recorded), source_code)
        steps = default.steps
        intervals = loop.Intervals(log=100, evaluate=steps, checkpoint=steps)
        loop.train(default, empty, mesh=mesh, intervals=intervals)

    if folder is None:
        known = version, repr(values), workdir.source_code_of(experiment)
        name = f"{flags.name_of(experiment)}-{storage.short_hash(*known)}"
        folder = storage.cached_folder(f"pretrained/{name}", train)
    else:
        workdir.require_run_of(flags.name_of(experiment), folder)
    record = workdir.read_record(folder)
    chosen = flags.from_json(experiment, (record or {}).get("flags", {}))
    if "workdir" in values:
        chosen["workdir"] = folder
    made = experiment(**chosen)
    with jax.set_mesh(mesh):
        return made, jax.device_get(loop.restore_run_params(made, folder, mesh))


_ALONE = """
import importlib, sys
from transformer.training import pretrained
module, name, version = sys.argv[1:]
make = getattr(importlib.import_module(module), name)
pretrained.load_or_train(make, None, version=version)
"""


def _train_alone(experiment: Callable[..., Experiment], version: str) -> None:
    """Make the run of the cache in a process of its own: steps and checkpoints of this
    one await all processes of its run, which may have the folder or wait for it."""
    name = flags.module_of(experiment), experiment.__name__, version
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _ALONE, *name]
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(
            f"training {name[0]} in a process of its own: exit status {done.returncode}"
        )
