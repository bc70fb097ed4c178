"""The user's own fields on a grid: an `.npz` file, a NetCDF file or a Zarr store.

`.npz`: arrays `values` [time, variable, latitude, longitude], `latitude`, `longitude`,
and optionally `time`, `variables`, `units`. NetCDF and Zarr: all variables over (time,
latitude, longitude), decoded as xarray does it. The last `held_out` fraction of the
steps is validation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.readers import files, netcdf, text_files
from transformer.data.records import Fields

GRID = ("latitude", "longitude")


def _check_length(
    path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], axis: int
) -> None:
    if np.shape(array) != (shape[axis],):
        raise ValueError(
            f"{path}: expected {shape[axis]} of {name}, as in values {list(shape)}, "
            f"got the shape {list(np.shape(array))}"
        )


def _degrees(path: Path, name: str, array: np.ndarray, limit: int) -> np.ndarray:
    """float32; a latitude beyond a pole would have a negative weight."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected {name} in degrees, got {array.dtype}")
    wrong = array[~(np.abs(array.astype(np.float64)) <= limit)]
    if len(wrong):
        raise ValueError(
            f"{path}: expected {name} in degrees, -{limit} to {limit}, got {wrong[0]}"
        )
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{path}: expected each {name} once, got {values[counts > 1][0]} again"
        )
    return array.astype(np.float32)


def _time(path: Path, time: np.ndarray) -> np.ndarray:
    """Dates or integers, increasing: validation is the end of the series."""
    if time.dtype.kind not in "MfiuO":
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
    if time.dtype.kind == "O":
        return time
    if time.dtype.kind == "M":
        return _dates(time)
    if (np.abs(time) < 2**53).all() and (time == np.round(time)).all():
        return time.astype(np.int64)
    print(f"{path}: times are no dates and no integers: steps are counted", flush=True)
    return np.arange(len(time))


def _dates(time: np.ndarray) -> np.ndarray:
    """datetime64[D], or, where a step is shorter than a day, datetime64[s]."""
    # Fractions of days as floats are some microseconds off.
    milliseconds = time.astype("datetime64[ms]") + np.timedelta64(500, "ms")
    seconds = milliseconds.astype("datetime64[s]")
    if (np.diff(seconds) < np.timedelta64(1, "D")).any():
        return seconds
    return seconds.astype("datetime64[D]")


def _fields(path: Path, arrays: dict[str, Any], held_out: float) -> Fields:
    values = arrays["values"]
    if values.ndim != 4 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: expected values [time, variable, latitude, longitude] of "
            f"numbers, got {values.dtype} {list(values.shape)}"
        )
    steps, count = values.shape[:2]
    if steps < 2:
        raise ValueError(f"{path}: expected 2 steps of time or more, got {steps}")
    facts = {
        "time": np.arange(steps),
        "variables": np.arange(count),
        "units": np.full(count, ""),
        **arrays,
    }
    for axis, name in enumerate(("time", "variables", *GRID)):
        _check_length(path, name, facts[name], values.shape, axis)
    _check_length(path, "units", facts["units"], values.shape, 1)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        step, variable = np.argwhere(infinite)[0, :2]
        raise ValueError(
            f"{path}: expected float32 numbers, nan where missing, got inf in variable "
            f"{facts['variables'][variable]} at step {step}"
        )
    return Fields(
        name=str(path),
        fingerprint=_fingerprint(path),
        values=values,
        latitude=_degrees(path, "latitude", facts["latitude"], 90),
        # A turn that begins at 20 or 180 degrees ends beyond 360.
        longitude=_degrees(path, "longitude", facts["longitude"], 540),
        time=_time(path, facts["time"]),
        variables=tuple(map(str, facts["variables"])),
        units=tuple(map(str, facts["units"])),
        train_steps=max(1, min(round(steps * (1 - held_out)), steps - 1)),
    )


def _fingerprint(path: Path) -> str:
    return files.fingerprint(
        path, text_files.listing(path) if path.is_dir() else [path]
    )


def read(path: Path, *, held_out: float) -> Fields:
    """`time` is that of `Fields`, and counts the steps where the source has neither
    dates nor integers. ValueError, naming the file and its content, where that is not a
    field."""
    try:
        kind = netcdf.format_of(path)
    except OSError as error:
        raise ValueError(f"{path}: expected a file, got {error.strerror}") from None
    if kind is not None:
        return _fields(path, netcdf.arrays(path, kind), held_out)
    if path.is_dir():
        raise ValueError(f"{path}: expected NetCDF, Zarr or .npz, got a folder")
    with open(path, "rb") as file:
        if file.read(len(files.ZIP)) != files.ZIP:
            raise ValueError(
                f"{path}: expected NetCDF, Zarr or .npz, got another kind of file"
            )
    arrays = files.npz_arrays(
        path,
        required=("values", *GRID),
        optional=("time", "variables", "units"),
    )
    return _fields(path, arrays, held_out)
