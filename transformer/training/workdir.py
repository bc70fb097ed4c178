"""The run folder: the record of a run, and the files that it leaves."""

from __future__ import annotations

import contextlib
import inspect
import json
import linecache
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer import checks, storage
from transformer.training import checkpoint, faults, legs, metrics, process_params
from transformer.training.experiment import Experiment

RECORD = "run.json"
FINISHED = "finished.json"
LOCK = "lock"
# A client of NFS remembers for up to a minute that a file was not there.
SHARED_SECONDS = 90.0
# Of the names in a run folder; folders of another layout are refused.
LAYOUT = 3
FIELDS: dict[str, Any] = {
    "experiment": str,
    "fingerprint": str,
    "flags": dict,
    "legs": list,
}


def read_record(workdir: Path) -> dict[str, Any] | None:
    """The record of the run in `workdir` (experiment, flags, legs), or None.

    Raises ValueError for a file that is no record, and for a folder of another layout.
    """
    file = workdir / RECORD
    if not file.exists():
        return None
    record = storage.read_json(file, {})
    if record.get("layout") != LAYOUT:
        raise ValueError(
            f"{workdir}: expected a run folder of layout {LAYOUT}, got "
            f"{record.get('layout')!r}, of another version; choose another --workdir"
        )
    storage.check_fields(str(file), record, FIELDS)
    storage.check_fields(str(file), {"labels": [], **record}, {"labels": list})
    for leg in record["legs"]:
        storage.check_fields(f"{file}: legs", leg, legs.FIELDS)
        if not 0 <= leg["from_step"] <= leg["to_step"] < 2**31:
            raise ValueError(
                f"{file}: legs: expected steps from 0 to 2^31 - 1, the first before "
                f"the last, got {leg['from_step']} to {leg['to_step']}"
            )
        others = {n: kind for n, kind in legs.OTHER_FIELDS.items() if n in leg}
        storage.check_fields(f"{file}: legs", leg, others)
    if not record["legs"]:
        raise ValueError(f"{file}: expected at least one leg, got none")
    return record


def require_run_of(experiment: str, folder: Path) -> None:
    """Raise ValueError unless `folder` has a checkpoint of a run of `experiment`."""
    record = read_record(folder)
    got = "none" if record is None else f"one of {record['experiment']}"
    if record is not None and record["experiment"] == experiment:
        if checkpoint.steps(folder / checkpoint.FOLDER):
            return
        got = "one without a checkpoint"
    raise ValueError(f"expected a run of {experiment}, got {got} at {folder}")


def write_record(
    workdir: Path,
    experiment: Experiment,
    flags: Mapping[str, Any],
    source_code: str,
    *,
    module: str = "",
    data_flags: Sequence[str] = (),
    accept_changed_data: bool = False,
) -> None:
    """Record the run at its first start (flags, command, versions, source code, files),
    and a new leg at a later start that changes something.

    source_code: of the experiment, for experiment.py. module: by which it is imported,
    for `transformer.load`. Raises ValueError where the folder cannot be written, and
    for changed data.
    """
    record = read_record(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            if record is None:
                _begin(workdir, experiment, flags, source_code, module)
            else:
                leg = legs.describe(experiment, flags, 0)
                if not accept_changed_data:
                    legs.check_data(workdir, record["legs"][-1], leg, data_flags)
                metrics.read(workdir)  # Damaged ones are refused before a leg begins.
                derived = {"derived": dict(experiment.derived)}
                _begin_leg(workdir, {**record, **derived}, leg)
    except OSError as error:
        raise ValueError(
            f"run folder {workdir}: expected a folder that can be written, got {error}"
        ) from None
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the record is written")
        _check_shared(workdir)


def _check_shared(workdir: Path) -> None:
    """Raise ValueError unless this process sees the record that process 0 wrote: the
    first checkpoint would hang."""
    deadline = time.monotonic() + SHARED_SECONDS
    while not (workdir / RECORD).exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"run folder {workdir}: expected a file system that all processes "
                f"share, got no {RECORD} of process 0 in process {jax.process_index()}"
            )
        time.sleep(0.1)


def _begin(
    workdir: Path,
    experiment: Experiment,
    flags: Mapping[str, Any],
    source_code: str,
    module: str,
) -> None:
    storage.commit_files(workdir, experiment.extra_files)
    storage.commit(workdir / "experiment.py", source_code.encode())
    leg = legs.describe(experiment, flags, 0)
    _write(
        workdir,
        {
            "layout": LAYOUT,
            "experiment": experiment.name,
            "module": module,
            "labels": list(getattr(experiment.data, "labels", ())),
            "fingerprint": experiment.fingerprint,
            "flags": dict(flags),
            "derived": dict(experiment.derived),
            "legs": [legs.to_json(leg)],
        },
    )


def _begin_leg(workdir: Path, record: dict[str, Any], leg: legs.Leg) -> None:
    old = record["legs"][-1]
    changed = legs.differences(old, leg)
    if not changed:
        return
    number = len(record["legs"])
    start = legs.rewind(workdir, old, leg, number)
    print(f"leg {number + 1}, from step {start}: {', '.join(changed)}", flush=True)
    added = legs.to_json(leg._replace(from_step=start))
    record = {**record, "flags": leg.flags, "legs": [*record["legs"], added]}
    _write(workdir, record)


def _write(workdir: Path, record: Mapping[str, Any]) -> None:
    storage.commit(workdir / RECORD, json.dumps(record, indent=1).encode())


def lock(workdir: Path) -> Any:
    """A context in which no other process trains in `workdir`; ValueError, which names
    the holder, where one does. Readers need no lock."""
    if jax.process_index() != 0:
        return contextlib.nullcontext()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        return storage.claim_or_refuse(workdir / LOCK, str(workdir))
    except OSError as error:
        raise ValueError(
            f"run folder {workdir}: expected a folder that can be written, got {error}"
        ) from None


def read_files(workdir: Path) -> dict[str, bytes]:
    """The files of the run's record, for `write_missing`."""
    if jax.process_index() != 0 or not (workdir / RECORD).exists():
        return {}
    paths = (workdir / name for name in legs.RECORD_FILES)
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def write_missing(workdir: Path, files: Mapping[str, bytes]) -> None:
    """Write the record again where somebody removed it while the run goes on."""
    if files and not (workdir / RECORD).exists():
        print(f"warning: {workdir / RECORD} was removed, written again", flush=True)
        workdir.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            storage.commit(workdir / name, content)


def finish(workdir: Path, experiment: Experiment, params: Any, step: int) -> None:
    """Write the loss plot and the report, then mark the run as finished: also without
    a report, where no process can hold the parameters alone."""
    if jax.process_index() == 0:
        metrics.plot(workdir)
    try:
        write_report(workdir, experiment, params)
    except faults.OutOfMemory as error:
        if jax.process_index() == 0:
            print(f"warning: report left out: {error}", flush=True)
    if jax.process_index() == 0:
        storage.commit(workdir / FINISHED, json.dumps({"step": step}).encode())


def write_report(workdir: Path, experiment: Experiment, params: Any) -> None:
    """Write the files of the experiment's report; print the numbers among them. Each
    process makes it with its own devices; process 0 writes."""
    with process_params.on_own_devices(params) as params:
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
    if not file.exists():
        return None
    step = storage.read_json(file, {"step": int})["step"]
    if not 0 <= step < 2**31:
        raise ValueError(f"{file}: step: expected 0 to 2^31 - 1, got {step}")
    return step


def check_finished(workdir: Path, flags: Mapping[str, Any]) -> None:
    """Raise ValueError for a damaged file of a finished run, and for other values of
    its flags than those in its record: without more steps they would change nothing."""
    metrics.read(workdir)
    for name in legs.RECORD_FILES:
        checks.regular_file(workdir / name)
    recorded = (read_record(workdir) or {})["flags"]
    changed = [n for n, v in flags.items() if n in recorded and recorded[n] != v]
    if changed:
        words = ", ".join(f"--{n}: {recorded[n]} -> {flags[n]}" for n in changed)
        raise ValueError(
            f"the run in {workdir} is finished: expected a larger --steps with other "
            f"flags, or another --workdir, got {words}"
        )


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


def source_code_of(function: Callable[..., Any]) -> str:
    """The text of the file, or of the notebook's cell, that defines `function`."""
    return "".join(linecache.getlines(inspect.getfile(inspect.unwrap(function))))
