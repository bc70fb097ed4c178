"""One checkpoint on disk: its metadata, loading and verification."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer import checks, storage
from transformer.training.checksum import checksums, leaf_paths
from transformer.training.update import State

ITEMS = ("params", "optimizer_state")
META, DIGESTS, SEAL = "meta", "digests.json", "seal.json"
PACKAGES = ("jax", "orbax-checkpoint", "optax", "numpy")
# Bytes of an array that one of several devices saves.
SMALLEST_PART = 2**20


class CorruptCheckpoint(Exception):
    """A checkpoint differs from what was saved; the message names the file or leaf."""


@functools.cache
def orbax() -> Any:
    """Orbax, imported at first use: it takes seconds. Its logged tracebacks are
    silenced; its errors are raised. Of an array that several devices hold, each saves a
    part only where that is large: a part is cut out by a program for each shape."""
    import orbax.checkpoint

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    handlers = orbax.checkpoint.type_handlers
    arrays = handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_PART)
    handlers.register_type_handler(jax.Array, arrays, override=True)
    return orbax.checkpoint


def metadata(state: State, identity: dict[str, str]) -> dict[str, Any]:
    """The JSON that is saved with the arrays. It has a digest of itself,
    because it is read before any file is verified."""
    trees = {name: getattr(state, name) for name in ITEMS}
    meta = {
        "step": int(state.step),
        "key": np.asarray(jax.device_get(state.key)).tolist(),
        "identity": identity,
        "leaves": {name: _leaf_type(x) for name, x in leaf_paths(trees).items()},
        "checksums": checksums(trees),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return {**meta, "digest": _json_digest(meta)}


def _json_digest(meta: dict[str, Any]) -> str:
    return storage.sha256(json.dumps(meta, sort_keys=True).encode())


def _leaf_type(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The `metadata` of the step in `folder`, verified. Raises CorruptCheckpoint."""
    path = folder / META / "metadata"
    name = f"{META}/{path.name}"
    try:
        found = storage.parse_json(checks.regular_file(path).read_bytes())
        if found.pop("digest") == _json_digest(found):
            return found
    except OSError as error:
        raise CorruptCheckpoint(f"{name}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{name}: not the JSON that was saved") from error
    raise CorruptCheckpoint(f"{name}: its content has changed since")


def load_verified(
    folder: Path, targets: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of the step and the arrays of the items in `targets`, verified.

    Raises CorruptCheckpoint; ValueError when shapes or dtypes differ from the targets'.
    """
    _agree(_first_mismatch(folder) if jax.process_index() == 0 else None)
    found = read_metadata(folder)
    _check_leaves(folder, found["leaves"], targets)
    parts, fault = {}, None
    try:
        for name, target in targets.items():
            parts[name] = _read(folder / name, target)
    except Exception as error:  # A corrupt file fails with any error of its decoder.
        fault = str(error).strip() or type(error).__name__
    _agree(fault)
    for name, number in checksums(parts).items():
        if found["checksums"][name] != number:
            raise CorruptCheckpoint(f"{name}: its values differ from those saved")
    return found, parts


def _first_mismatch(folder: Path) -> str | None:
    # The seal first: it covers the digests. A killed run may leave its newest step
    # whole, but without a seal.
    names = [*([SEAL] if (folder / SEAL).exists() else []), DIGESTS]
    return next(
        filter(None, (storage.first_mismatch(folder, name) for name in names)), None
    )


def _agree(fault: str | None) -> None:
    """Raise CorruptCheckpoint on every process if one found `fault`."""
    corrupt = fault is not None
    if jax.process_count() > 1:
        flags = multihost_utils.process_allgather(np.array([corrupt]))
        corrupt = bool(np.any(flags))
    if corrupt:
        raise CorruptCheckpoint(fault or "found by another process")


def _check_leaves(folder: Path, got: dict[str, str], targets: dict[str, Any]) -> None:
    expected = {name: _leaf_type(x) for name, x in leaf_paths(targets).items()}
    got = {name: leaf for name, leaf in got.items() if name.split("/")[0] in targets}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            other = name.startswith("optimizer_state/")
            raise ValueError(
                f"{folder}: {name}: expected {expected.get(name, 'no such leaf')}, "
                f"got {got.get(name, 'no such leaf')}"
                f"{'; the folder is of a run with another optimizer' if other else ''}"
            )


def abstract_params(leaves: dict[str, str], mesh: jax.sharding.Mesh) -> Any:
    """Nested dictionaries of shapes and dtypes, replicated on `mesh`, from the `leaves`
    of a step's metadata."""
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        first, *parts = name.split("/")
        if first != "params":
            continue
        dtype, _, shape = leaf.rstrip("]").partition("[")
        sizes = tuple(int(size) for size in shape.split(",") if size.strip())
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = jax.ShapeDtypeStruct(
            sizes, np.dtype(dtype), sharding=replicated
        )
    return tree


def _read(folder: Path, target: Any) -> Any:
    if not jax.tree.leaves(target):
        return target
    with orbax().StandardCheckpointer() as reader:
        return reader.restore(folder, target)


def place_array(number: Any, target: Any) -> jax.Array:
    """A number or a list of numbers as an array like `target`, sharded."""
    value = np.asarray(number, target.dtype)
    return jax.make_array_from_callback(
        value.shape, target.sharding, lambda index: value[index]
    )
