"""One saved step: described, read back and verified."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer.training import digests
from transformer.training.fingerprint import fingerprint, leaf_paths
from transformer.training.update import State

ITEMS = ("params", "optimizer_state")
META, DIGESTS, SEAL = "meta", "digests.json", "seal.json"
PACKAGES = ("jax", "orbax-checkpoint", "optax", "numpy")


class Damaged(Exception):
    """A step on disk is not what was saved; the message says where."""


def orbax() -> Any:
    """Orbax, imported when first used: it takes seconds. Of its failures it logs many
    tracebacks; what matters of them is raised."""
    import orbax.checkpoint

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return orbax.checkpoint


def described(state: State, identity: dict[str, str]) -> dict[str, Any]:
    """The JSON beside the arrays. Its own digest is in it: it must be read to be
    checked against, before anything else is known to be sound."""
    trees = {name: getattr(state, name) for name in ITEMS}
    meta = {
        "step": int(state.step),
        "key": np.asarray(jax.device_get(state.key)).tolist(),
        "identity": identity,
        "leaves": {name: _described_leaf(x) for name, x in leaf_paths(trees).items()},
        "fingerprint": fingerprint(trees),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return {**meta, "digest": _json_digest(meta)}


def _json_digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _described_leaf(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def meta(folder: Path) -> dict[str, Any]:
    """The JSON of the step in `folder`. Raises Damaged."""
    path = folder / META / "metadata"
    try:
        found = json.loads(path.read_bytes())
        if found.pop("digest") == _json_digest(found):
            return found
    except OSError as error:
        raise Damaged(f"{META}/{path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{META}/{path.name}: not the JSON that was saved") from error
    raise Damaged(f"{META}/{path.name}: its content has changed since it was written")


def sound(
    folder: Path, targets: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The step's JSON and the arrays of those items that `targets` names, verified.

    Raises Damaged; ValueError when the arrays have not the targets' shapes or dtypes.
    """
    _agree(_broken_file(folder) if jax.process_index() == 0 else None)
    told = meta(folder)
    _check_leaves(folder, told["leaves"], targets)
    parts, damage = {}, None
    try:
        for name, target in targets.items():
            parts[name] = _read(folder / name, target)
    except Exception as error:  # Damage shows as whatever the decoder fails with.
        damage = str(error).strip() or type(error).__name__
    _agree(damage)
    for name, number in fingerprint(parts).items():
        if told["fingerprint"][name] != number:
            raise Damaged(f"{name}: its values are not those that were saved")
    return told, parts


def _broken_file(folder: Path) -> str | None:
    # The seal first: it tells whether the digests can be believed. A run that was
    # killed may have left its newest step whole, but without one.
    names = [*([SEAL] if (folder / SEAL).exists() else []), DIGESTS]
    return next(filter(None, (digests.broken(folder, name) for name in names)), None)


def _agree(damage: str | None) -> None:
    """Raise Damaged on every process if `damage` is told on one."""
    anywhere = damage is not None
    if jax.process_count() > 1:
        flags = multihost_utils.process_allgather(np.array([anywhere]))
        anywhere = bool(np.any(flags))
    if anywhere:
        raise Damaged(damage or "found by another process")


def _check_leaves(folder: Path, got: dict[str, str], targets: dict[str, Any]) -> None:
    expected = {name: _described_leaf(x) for name, x in leaf_paths(targets).items()}
    got = {name: leaf for name, leaf in got.items() if name.split("/")[0] in targets}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"{folder}: {name}: expected {expected.get(name, 'no such leaf')}, "
                f"got {got.get(name, 'no such leaf')}"
            )


def _read(folder: Path, target: Any) -> Any:
    if not jax.tree.leaves(target):
        return target
    with orbax().StandardCheckpointer() as reader:
        return reader.restore(folder, target)


def placed(number: Any, target: Any) -> jax.Array:
    """A number, or a list of them, as the array that `target` describes."""
    value = np.asarray(number, target.dtype)
    return jax.make_array_from_callback(
        value.shape, target.sharding, lambda index: value[index]
    )
