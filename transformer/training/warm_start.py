"""A new run that starts from the parameters of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.training import checkpoint
from transformer.training.checksum import leaf_paths

Params = Any


class Match(NamedTuple):
    """The parameters of a model beside those of a checkpoint.

    same: paths of the same shape and dtype. differences: a line for each other path,
    which is new, left over, or of another shape or dtype.
    """

    same: frozenset[str]
    differences: tuple[str, ...]


def match(params: Params, loaded: Params) -> Match:
    """Compare two trees, of arrays or of their shapes, by path."""
    mine, theirs = leaf_paths(params), leaf_paths(loaded)
    same = frozenset(
        path
        for path, leaf in mine.items()
        if path in theirs and _type(leaf) == _type(theirs[path])
    )
    lines = [
        f"{path}: expected {_type(leaf)}, got {_type(theirs[path])}"
        if path in theirs
        else f"{path}: new"
        for path, leaf in mine.items()
        if path not in same
    ]
    lines += [f"{path}: left over" for path in theirs if path not in mine]
    return Match(same, tuple(lines))


class WarmStart(NamedTuple):
    """The parameters of the run in `folder` in place of those of the same path, shape
    and dtype. partial: accept others, which stay as they are."""

    folder: Path
    partial: bool

    def check(self, abstract_params: Params) -> None:
        """Print what is taken and what is not, from shapes alone.

        ValueError where there is no checkpoint, and for differences that `partial` does
        not accept.
        """
        shapes = checkpoint.abstract_params(self.folder / checkpoint.FOLDER)
        same, differences = match(abstract_params, shapes)
        if differences and not self.partial:
            raise ValueError(
                f"{self.folder}: expected the parameters of this model, got "
                f"{len(differences)} that differ ({'; '.join(differences)}); "
                f"--init_partial takes the other {len(same)}"
            )
        count = len(leaf_paths(abstract_params))
        print(f"{self.folder}: {len(same)} of {count} parameters taken", flush=True)
        for line in differences:
            print(f"  not taken: {line}", flush=True)

    def load(self, abstract_params: Params) -> Params:
        """All parameters in these shapes and shardings. ValueError where some are not
        those of the checkpoint."""
        loaded = checkpoint.load_params(self.folder / checkpoint.FOLDER)
        differences = match(abstract_params, loaded).differences
        if differences:
            raise ValueError(
                f"{self.folder}: expected the parameters of this model, got "
                f"{len(differences)} that differ ({'; '.join(differences)})"
            )
        return jax.tree.map(
            lambda leaf, like: jax.device_put(leaf, like.sharding),
            loaded,
            abstract_params,
        )

    def apply(self, params: Params) -> Params:
        """`params` with the leaves that are taken, sharded as they were."""
        loaded = checkpoint.load_params(self.folder / checkpoint.FOLDER)
        same, theirs = match(params, loaded).same, leaf_paths(loaded)
        values = [
            jax.device_put(theirs[path], leaf.sharding) if path in same else leaf
            for path, leaf in leaf_paths(params).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(params), values)


def _type(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
