"""A run that starts from a folder of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from transformer.interchange import weights
from transformer.interchange.folder import PretrainedFolder, open_folder
from transformer.training.checksum import leaf_paths


class PretrainedStart(NamedTuple):
    """The parameters of a folder, as `training.warm_start.WarmStart`: all of them.
    opened: the folder, if it was opened before; else it is opened only where its
    parameters are needed, so that a run can go on without it."""

    folder: Path
    scanned: bool = False
    opened: PretrainedFolder | None = None

    def check(self, abstract_params: Any) -> None:
        """Print what is taken. ValueError as `folder.open_folder`."""
        count = len(leaf_paths(abstract_params))
        tensors = len(self.open().bindings)
        print(f"{self.folder}: {count} parameters from {tensors} tensors", flush=True)

    def load(self, abstract_params: Any) -> Any:
        """The parameters in these shapes, dtypes and shardings."""
        opened = self.open()
        return weights.read(opened.bindings, opened.tensors, abstract_params)

    def open(self) -> PretrainedFolder:
        """As `folder.open_folder`."""
        return self.opened or open_folder(self.folder, scanned=self.scanned)

    def apply(self, params: Any) -> Any:
        """As `load`, in place of `params`."""

        def abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

        return self.load(jax.tree.map(abstract, params))
