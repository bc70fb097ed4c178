"""A trained model for another experiment to use: trained once, loaded ever after."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from transformer import axes
from transformer.training import loop
from transformer.training import workdir as folder
from transformer.training.experiment import Experiment

Keep = Callable[[str, Callable[[Path], None]], Path]


def lent(
    experiment: Callable[..., Experiment],
    workdir: Path | None,
    *,
    source: str,
    keep: Keep,
    stamp: Callable[[dict[str, Any]], str],
) -> tuple[dict[str, Any], Any]:
    """Flags and parameters, on the host, of the run in `workdir`, or of the default one
    where that is None: trained on the first device in a folder of its own, if need be.

    source: the text of its file. keep(name, write): the folder of that name, written
    before. stamp(flags): a name that changes when a default run would.
    """
    mesh = axes.mesh(devices=jax.local_devices()[:1])
    parameters = inspect.signature(experiment).parameters
    flags = {name: parameter.default for name, parameter in parameters.items()}

    def train(empty: Path) -> None:
        made = experiment()
        print(f"training {made.name}, once", flush=True)
        folder.begin(empty, made, flags, source)
        every = loop.Cadence(log=100, evaluate=made.steps, checkpoint=made.steps)
        loop.train(made, empty, mesh=mesh, cadence=every)

    where = keep(stamp(flags), train) if workdir is None else workdir
    flags = (folder.recorded(where) or {"flags": flags})["flags"]
    if "workdir" in parameters:
        flags = {**flags, "workdir": where}
    return flags, jax.device_get(loop.trained(experiment(**flags), where, mesh))
