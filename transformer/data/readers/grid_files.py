"""The user's own fields on a grid: an `.npz` file or a classic NetCDF file.

`.npz`: arrays `values` [time, variable, latitude, longitude], `latitude`, `longitude`,
and if you like `time`, `variables`, `units`. NetCDF 3: every variable over (time,
latitude, longitude) is taken, its missing values, scale and offset honoured. The last
`held_out` share of the steps is validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.fields import Fields
from transformer.data.readers import files, netcdf

GRID = ("latitude", "longitude")


def _fits(
    path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], axis: int
) -> None:
    if np.shape(array) != (shape[axis],):
        raise ValueError(
            f"{path}: expected {shape[axis]} of {name}, as in values {list(shape)}, "
            f"got the shape {list(np.shape(array))}"
        )


def _degrees(path: Path, name: str, array: np.ndarray, most: int) -> np.ndarray:
    """float32; a latitude beyond a pole would weigh less than nothing."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected {name} in degrees, got {array.dtype}")
    wrong = array[~(np.abs(array.astype(np.float64)) <= most)]
    if len(wrong):
        raise ValueError(
            f"{path}: expected {name} in degrees, -{most} to {most}, got {wrong[0]}"
        )
    return array.astype(np.float32)


def _time(path: Path, time: np.ndarray) -> np.ndarray:
    """Dates or whole numbers. Validation is what comes last, so it must come later."""
    if time.dtype.kind not in "Mfiu":
        raise ValueError(
            f"{path}: expected time in datetime64 or numbers, got {time.dtype}"
        )
    back = np.flatnonzero(~(time[1:] > time[:-1]))
    if len(back):
        step = back[0] + 1
        raise ValueError(
            f"{path}: expected time to increase, got {time[step]} after "
            f"{time[step - 1]} at step {step}"
        )
    if time.dtype.kind == "M":
        return time.astype("datetime64[D]")
    if (np.abs(time) < 2**53).all() and (time == np.round(time)).all():
        return time.astype(np.int64)
    return np.arange(len(time))


def _fields(path: Path, found: dict[str, Any], held_out: float) -> Fields:
    values = found["values"]
    if values.ndim != 4 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected values [time, variable, latitude, longitude] of "
            f"numbers, got {values.dtype} {list(values.shape)}"
        )
    steps, count = values.shape[:2]
    if steps < 2:
        raise ValueError(f"{path}: expected 2 steps of time or more, got {steps}")
    given = {
        "time": np.arange(steps),
        "variables": np.arange(count),
        "units": np.full(count, ""),
        **found,
    }
    for axis, name in enumerate(("time", "variables", *GRID)):
        _fits(path, name, given[name], values.shape, axis)
    _fits(path, "units", given["units"], values.shape, 1)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    endless = np.isinf(values)
    if endless.any():
        step, variable = np.argwhere(endless)[0, :2]
        raise ValueError(
            f"{path}: expected float32 numbers, nan where missing, got inf in variable "
            f"{given['variables'][variable]} at step {step}"
        )
    return Fields(
        name=str(path),
        identity=files.identity(path, [path]),
        values=values,
        latitude=_degrees(path, "latitude", given["latitude"], 90),
        longitude=_degrees(path, "longitude", given["longitude"], 360),
        time=_time(path, given["time"]),
        variables=tuple(map(str, given["variables"])),
        units=tuple(map(str, given["units"])),
        train_steps=max(1, min(round(steps * (1 - held_out)), steps - 1)),
    )


def read(path: Path, *, held_out: float) -> Fields:
    """`time` becomes datetime64[D] where it is dates, and counts the steps where it is
    neither dates nor whole numbers. ValueError, naming the file and what is in it,
    where that is not a field."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of fields, got a folder")
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ValueError(f"{path}: expected a file, got {error.strerror}") from None
    if magic == netcdf.HDF5:
        raise ValueError(
            f"{path}: expected classic NetCDF 3 or .npz, got NetCDF 4 (HDF5); "
            f"convert it with `nccopy -k classic`"
        )
    if magic.startswith(netcdf.CLASSIC):
        found = netcdf.arrays(path)
    elif magic.startswith(files.ZIP):
        known = ("time", "variables", "units")
        found = files.arrays(path, needed=("values", *GRID), known=known)
    else:
        raise ValueError(f"{path}: expected NetCDF or .npz, got another kind of file")
    return _fields(path, found, held_out)
