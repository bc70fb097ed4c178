"""Maps on a grid that change with time: load("winds"), load("ocean.nc")."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Fields
from transformer.data.sources import HELD_OUT, own_path


def load(source: str | Path, *, held_out: float = HELD_OUT) -> Fields:
    """A series of maps; validation is what comes after `train_steps`.

    Own files: `.npz`, NetCDF 3 and 4, Zarr (the last three need the extra `fields`).
    """
    path = own_path(source, "fields", held_out)
    if path is not None:
        from transformer.data.readers import grid_files

        return grid_files.read(path, held_out=held_out)
    if source != "winds":
        raise ValueError(
            f"expected the shipped winds or a file of fields, got {source!r}"
        )
    from transformer.data.shipped import winds

    return winds.load()
