"""The run folder: what a run was, beside what came of it."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.training import metrics, whole
from transformer.training.experiment import Experiment

RECORD = "run.json"
FINISHED = "finished.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def recorded(folder: Path) -> dict[str, Any] | None:
    """The record of an earlier start in this folder: experiment, flags, command."""
    file = folder / RECORD
    return json.loads(file.read_text()) if file.exists() else None


def begin(
    folder: Path, experiment: Experiment, flags: Mapping[str, Any], source: str
) -> None:
    """Record the run at its first start: flags, command, versions, source, files.

    Raises ValueError where the folder cannot be written. What an earlier start
    recorded stays as it is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RECORD).exists() or jax.process_index() != 0:
            return
        for name, content in experiment.files.items():
            whole.write(folder / name, content)
        whole.write(folder / "experiment.py", source.encode())
        record = {
            "experiment": experiment.name,
            "architecture": experiment.architecture,
            "flags": dict(flags),
            "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
            "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "devices": [str(device) for device in jax.devices()],
        }
        whole.write(folder / RECORD, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise ValueError(
            f"run folder {folder}: expected a folder that can be written, got {error}"
        ) from None


def finish(folder: Path, experiment: Experiment, params: Any, step: int) -> None:
    """Leave the loss plot and what the experiment shows, and say that it is done."""
    if jax.process_index() == 0:
        metrics.plot(folder)
    show(folder, experiment, params)
    if jax.process_index() == 0:
        whole.write(folder / FINISHED, json.dumps({"step": step}).encode())


def show(folder: Path, experiment: Experiment, params: Any) -> None:
    """Leave what the experiment shows; tell the numbers among it."""
    shown = experiment.show(params, jax.random.key(experiment.seed))
    if jax.process_index() != 0:
        return
    for name, content in shown.items():
        whole.write(folder / name, _encoded(content))
        for what, number in content.items() if isinstance(content, Mapping) else ():
            told = f"{number:.4g}" if isinstance(number, float) else number
            print(f"{what}: {told}", flush=True)


def finished(folder: Path) -> int | None:
    """The last step of the run in this folder; None while it has not got there."""
    file = folder / FINISHED
    return json.loads(file.read_text())["step"] if file.exists() else None


def _encoded(content: Any) -> bytes:
    """Text, bytes, numbers by name, a matplotlib figure or an image (rows, columns[,
    3]) as a file."""
    from io import BytesIO

    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, Mapping):
        return json.dumps(content, indent=1).encode()
    file = BytesIO()
    if isinstance(content, np.ndarray):
        from matplotlib.image import imsave

        imsave(file, content, format="png", cmap="gray")
    else:
        content.savefig(file, format="png", dpi=120)
    return file.getvalue()


def source_of(function: Callable[..., Any]) -> str:
    """The text of the file in which the experiment is written."""
    return Path(inspect.getfile(function)).read_text()
