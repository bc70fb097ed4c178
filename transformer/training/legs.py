"""The legs of a run: parts that were trained with the same flags on the same data.

With another number of steps, training resumes from the checkpoint before the
learning-rate decay, so that the result equals, bit for bit, a run of that many steps
from the start. Later checkpoints are kept in `legs/<number>` of the run folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from transformer import storage
from transformer.training import checkpoint
from transformer.training.experiment import Experiment

FOLDER = "legs"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Of the whole run, not of one leg.
RECORD_FILES = ("run.json", "experiment.py", "tokenizer.json")
KEPT = (*RECORD_FILES, "metrics.jsonl", "lock")


class Leg(NamedTuple):
    """A part of a run.

    from_step, to_step: updates before and at its end. decay_step: the last step whose
    state does not depend on `to_step`, or None. data: a hash of the data.
    """

    from_step: int
    to_step: int
    decay_step: int | None
    flags: dict[str, Any]
    data: str
    command: str
    python: str
    versions: dict[str, str]
    devices: list[str]


# Of a leg in run.json, for storage.check_fields.
FIELDS: dict[str, Any] = {
    "from_step": int,
    "to_step": int,
    "decay_step": (int, type(None)),
    "flags": dict,
    "data": str,
}
# Of a leg too, where an older record does not lack them.
OTHER_FIELDS = {"command": str, "python": str, "versions": dict, "devices": list}


def describe(experiment: Experiment, flags: Mapping[str, Any], from_step: int) -> Leg:
    """The leg that begins now at `from_step`."""
    return Leg(
        from_step=from_step,
        to_step=experiment.steps,
        decay_step=experiment.decay_step,
        flags=dict(flags),
        data=experiment.data_fingerprint,
        command=shlex.join([sys.executable, *sys.orig_argv[1:]]),
        python=platform.python_version(),
        versions={p: importlib.metadata.version(p) for p in PACKAGES},
        devices=[str(device) for device in jax.devices()],
    )


def differences(old: Mapping[str, Any], new: Leg) -> list[str]:
    """What the leg `new` changes, as `--flag old -> new`; [] where it goes on as `old`
    did."""
    lines = [
        f"--{name} {value} -> {new.flags[name]}"
        for name, value in old["flags"].items()
        if name in new.flags and new.flags[name] != value
    ]
    if old["data"] != new.data:
        lines.append("other data")
    lines += [
        f"{name} {old['versions'][name]} -> {version}"
        for name, version in new.versions.items()
        if name in old.get("versions", {}) and old["versions"][name] != version
    ]
    return lines


def check_data(
    workdir: Path, old: Mapping[str, Any], new: Leg, data_flags: Sequence[str]
) -> None:
    """Raise ValueError where the data changed though the flags that name it did not."""
    same = all(old["flags"].get(f) == new.flags.get(f) for f in data_flags)
    if same and old["data"] != new.data:
        raise ValueError(
            f"{workdir}: expected the data with which the run was started (hash "
            f"{old['data']}), got other data of the same name ({new.data}); "
            "--accept_changed_data goes on with it"
        )


def rewind(workdir: Path, old: Mapping[str, Any], new: Leg, number: int) -> int:
    """The step from which `new` goes on; later checkpoints, and the results of a
    finished run, are moved to `legs/number`.

    Raises ValueError, before anything is moved, for fewer steps than were taken where
    the run cannot go back.
    """
    saved = checkpoint.steps(workdir / checkpoint.FOLDER)
    newest = max(saved, default=0)
    if (old["to_step"], old["decay_step"]) == (new.to_step, new.decay_step):
        return newest
    if old["decay_step"] is None or new.decay_step is None:
        print(
            "note: the schedule of the learning rate depends on --steps from its "
            "start: the run differs from one started with as many steps",
            flush=True,
        )
        limit = newest
    else:
        limit = min(old["decay_step"], new.decay_step)
    if limit > new.to_step:
        raise ValueError(
            f"--steps: expected at least {limit}, at which the run in {workdir} is and "
            f"from which its schedule cannot go back, got {new.to_step}"
        )
    later = [step for step in saved if step > limit]
    archive = workdir / FOLDER / str(number)
    if later or (workdir / "finished.json").exists():
        _archive(workdir, archive, later)
        print(f"steps after {limit} and results are kept in {archive}", flush=True)
    return max((step for step in saved if step <= limit), default=0)


def _archive(workdir: Path, archive: Path, steps: list[int]) -> None:
    (archive / checkpoint.FOLDER).mkdir(parents=True, exist_ok=True)
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and not (archive / metrics.name).exists():
        storage.commit(archive / metrics.name, metrics.read_bytes())
    for step in steps:
        name = f"{checkpoint.FOLDER}/{step}"
        checkpoint.move(workdir / name, archive / name)
    for file in sorted(p for p in workdir.iterdir() if p.is_file()):
        if file.name not in KEPT and not (archive / file.name).exists():
            storage.move(file, archive / file.name)


def to_json(leg: Leg) -> dict[str, Any]:
    """The leg as run.json holds it."""
    return json.loads(json.dumps(leg._asdict()))
