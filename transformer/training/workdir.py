"""The run folder: the record of a run, and the files that it leaves."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import linecache
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer import storage
from transformer.training import metrics
from transformer.training.experiment import Experiment

RECORD = "run.json"
FINISHED = "finished.json"
# Of the names in a run folder; folders of another layout are refused.
LAYOUT = 2
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def read_record(workdir: Path) -> dict[str, Any] | None:
    """The record of the run in `workdir` (experiment, flags, command), or None.

    Raises ValueError for a file that is no record, and for a folder of another layout.
    """
    file = workdir / RECORD
    if not file.exists():
        return None
    try:
        record = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file}: expected a run's record, got {error}") from None
    if record.get("layout") != LAYOUT:
        raise ValueError(
            f"{workdir}: expected a run folder of layout {LAYOUT}, got one of an "
            "older version; choose another --workdir"
        )
    return record


def write_record(
    workdir: Path, experiment: Experiment, flags: Mapping[str, Any], source: str
) -> None:
    """Record the run at its first start: flags, command, versions, source, files.

    A later start leaves the record as it is. Raises ValueError where the folder cannot
    be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / RECORD).exists() or jax.process_index() != 0:
            return
        for name, content in experiment.extra_files.items():
            storage.commit(workdir / name, content)
        storage.commit(workdir / "experiment.py", source.encode())
        record = {
            "layout": LAYOUT,
            "experiment": experiment.name,
            "fingerprint": experiment.fingerprint,
            "flags": dict(flags),
            "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
            "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "devices": [str(device) for device in jax.devices()],
        }
        storage.commit(workdir / RECORD, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise ValueError(
            f"run folder {workdir}: expected a folder that can be written, got {error}"
        ) from None


def finish(workdir: Path, experiment: Experiment, params: Any, step: int) -> None:
    """Write the loss plot and the report, then mark the run as finished."""
    if jax.process_index() == 0:
        metrics.plot(workdir)
    write_report(workdir, experiment, params)
    if jax.process_index() == 0:
        storage.commit(workdir / FINISHED, json.dumps({"step": step}).encode())


def write_report(workdir: Path, experiment: Experiment, params: Any) -> None:
    """Write the files of the experiment's report; print the numbers among them."""
    report = experiment.report(params, jax.random.key(experiment.seed))
    if jax.process_index() != 0:
        return
    for name, content in report.items():
        storage.commit(workdir / name, _encode(content))
        for key, number in content.items() if isinstance(content, Mapping) else ():
            value = f"{number:.4g}" if isinstance(number, float) else number
            print(f"{key}: {value}", flush=True)


def last_step(workdir: Path) -> int | None:
    """The last step of a finished run; None while it is not finished."""
    file = workdir / FINISHED
    return json.loads(file.read_text())["step"] if file.exists() else None


def _encode(content: Any) -> bytes:
    """Text, bytes, numbers by name, a matplotlib figure or an image (rows, columns[,
    3]) as the bytes of a file."""
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
    """The text of the file, or of the notebook's cell, that defines `function`."""
    return "".join(linecache.getlines(inspect.getfile(inspect.unwrap(function))))
