"""A new run that starts from the parameters of another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from transformer.training import checkpoint
from transformer.training.checksum import leaf_paths

Params = Any


def from_folder(folder: Path, *, partial: bool) -> Callable[[Params], Params]:
    """The function that puts the parameters of the run in `folder` in place of those of
    the same path, shape and dtype.

    It prints how many were taken. What is new, left over or of another shape is listed
    and refused (ValueError), or with `partial` listed and left as it is.
    """

    def start(params: Params) -> Params:
        loaded = checkpoint.load_params(folder / "checkpoints")
        return merge(params, loaded, name=str(folder), partial=partial)

    return start


def merge(params: Params, loaded: Params, *, name: str, partial: bool) -> Params:
    """`params` with the leaves of `loaded` of the same path, shape and dtype, placed as
    those were. Errors as `from_folder`; name: of the source, for messages."""
    mine, theirs = leaf_paths(params), leaf_paths(loaded)
    same = {
        path
        for path, leaf in mine.items()
        if path in theirs and _type(leaf) == _type(theirs[path])
    }
    lines = [
        f"{path}: expected {_type(leaf)}, got {_type(theirs[path])}"
        if path in theirs
        else f"{path}: new"
        for path, leaf in mine.items()
        if path not in same
    ]
    lines += [f"{path}: left over" for path in theirs if path not in mine]
    if lines and not partial:
        raise ValueError(
            f"{name}: expected the parameters of this model, got {len(lines)} that "
            f"differ ({'; '.join(lines)}); --init_partial takes the other {len(same)}"
        )
    print(f"{name}: {len(same)} of {len(mine)} parameters taken", flush=True)
    for line in lines:
        print(f"  not taken: {line}", flush=True)
    values = [
        jax.device_put(theirs[path], leaf.sharding) if path in same else leaf
        for path, leaf in mine.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(params), values)


def _type(leaf: Any) -> str:
    return f"{leaf.dtype.name}{list(leaf.shape)}"
