"""The user's own fields on a grid: an `.npz` file or a classic NetCDF file.

`.npz`: arrays `values` [time, variable, latitude, longitude], `latitude`, `longitude`,
and if you like `time`, `variables`, `units`. NetCDF 3: every variable over (time,
latitude, longitude) is taken, its missing values, scale and offset honoured. The last
`held_out` share of the steps is validation.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data import own_files
from transformer.data.fields import Fields

AXES = (("time", "t"), ("latitude", "lat"), ("longitude", "lon"))
HDF5 = b"\x89HDF"


def read(path: Path, *, held_out: float) -> Fields:
    """ValueError, naming the file and what is in it, where that is not a field."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of fields, got a folder")
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic.startswith(HDF5):
        raise ValueError(
            f"{path}: expected classic NetCDF 3 or .npz, got NetCDF 4 (HDF5); "
            f"convert it with `nccopy -k classic`"
        )
    if magic.startswith(b"CDF"):
        found = _netcdf(path)
    elif magic.startswith(b"PK"):
        found = _npz(path)
    else:
        raise ValueError(f"{path}: expected NetCDF or .npz, got another kind of file")
    return _checked(path, found, held_out)


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected arrays in .npz, got {error}") from None
    for name in ("values", "latitude", "longitude"):
        if name not in found:
            got = ", ".join(found) or "none"
            raise ValueError(f"{path}: expected an array {name!r}, got {got}")
    return found


def _netcdf(path: Path) -> dict[str, Any]:
    from scipy.io import netcdf_file

    try:
        with netcdf_file(str(path), "r", mmap=False) as file:
            variables = dict(file.variables)
            taken = {
                name: _values(variable)
                for name, variable in variables.items()
                if _is_field(variable.dimensions)
            }
            if not taken:
                got = ", ".join(
                    f"{name}({', '.join(v.dimensions)})"
                    for name, v in variables.items()
                )
                raise ValueError(
                    f"{path}: expected a variable over (time, latitude, longitude), "
                    f"got {got or 'none'}"
                )
            shapes = {name: array.shape for name, array in taken.items()}
            if len(set(shapes.values())) > 1:
                raise ValueError(
                    f"{path}: expected variables on one grid, got {shapes}"
                )
            where = variables[next(iter(taken))].dimensions
            found: dict[str, Any] = {
                word: np.array(variables[name].data)
                for (word, _), name in zip(AXES, where, strict=True)
                if name in variables
            }
            units = [getattr(variables[name], "units", b"") for name in taken]
    except (TypeError, OSError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: expected NetCDF 3, got {error}") from None
    found["values"] = np.stack(list(taken.values()), 1)
    found["variables"] = list(taken)
    found["units"] = [u.decode() if isinstance(u, bytes) else str(u) for u in units]
    for word, _ in AXES[1:]:
        if word not in found:
            raise ValueError(f"{path}: expected the coordinate {word}, got none")
    return found


def _is_field(dimensions: tuple[str, ...]) -> bool:
    """Time, latitude and longitude, in this order, by the beginnings of their names."""
    return len(dimensions) == 3 and all(
        name.lower().startswith(short)
        for name, (_, short) in zip(dimensions, AXES, strict=True)
    )


def _values(variable: Any) -> np.ndarray:
    """float32, NaN where missing."""
    raw = np.array(variable.data)
    missing = np.zeros(raw.shape, bool)
    for name in ("missing_value", "_FillValue"):
        if hasattr(variable, name):
            missing |= raw == np.ravel(getattr(variable, name))[0].astype(raw.dtype)
    scale = np.ravel(getattr(variable, "scale_factor", 1.0))[0]
    offset = np.ravel(getattr(variable, "add_offset", 0.0))[0]
    return np.where(missing, np.nan, raw * scale + offset).astype(np.float32)


def _checked(path: Path, found: dict[str, Any], held_out: float) -> Fields:
    values = found["values"]
    if values.ndim != 4 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected values [time, variable, latitude, longitude] of "
            f"numbers, got {values.dtype} {list(values.shape)}"
        )
    steps, count = values.shape[:2]
    time = np.asarray(found.get("time", np.arange(steps)))
    variables = [str(v) for v in found.get("variables", range(count))]
    units = [str(u) for u in found.get("units", [""] * count)]
    sizes = {"time": (time, 0), "variables": (variables, 1), "units": (units, 1)}
    sizes |= {word: (found[word], 2 + i) for i, (word, _) in enumerate(AXES[1:])}
    for name, (array, axis) in sizes.items():
        if np.shape(array) != (values.shape[axis],):
            raise ValueError(
                f"{path}: expected {values.shape[axis]} of {name}, as in values "
                f"{list(values.shape)}, got the shape {list(np.shape(array))}"
            )
    if steps < 2:
        raise ValueError(f"{path}: expected 2 steps of time or more, got {steps}")
    return Fields(
        name=str(path),
        identity=own_files.identity(path.parent, [path]),
        values=values.astype(np.float32),
        latitude=np.asarray(found["latitude"], np.float32),
        longitude=np.asarray(found["longitude"], np.float32),
        time=time,
        variables=tuple(variables),
        units=tuple(units),
        train_steps=max(1, min(round(steps * (1 - held_out)), steps - 1)),
    )
