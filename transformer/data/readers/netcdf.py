"""NetCDF 3, NetCDF 4 (HDF5) and Zarr as fields on a grid, by xarray.

Conventions: CF 1.11, sections 2.5.1 (missing data), 4.4 (time), 8.1 (packed data).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.readers import files

ENGINES = {"NetCDF 3": "scipy", "NetCDF 4": "h5netcdf", "Zarr": "zarr"}
AXES = (("time", "t"), ("latitude", "lat"), ("longitude", "lon"))
NEVER_WRITTEN = 9.969209968386869e36  # the default fill value of the format


def format_of(path: Path) -> str | None:
    """Which of ENGINES `path` is, or None. Raises OSError."""
    if path.is_dir():
        zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
        return "Zarr" if zarr else None
    with open(path, "rb") as file:
        magic = file.read(4)
    return {b"CDF": "NetCDF 3", b"\x89HD": "NetCDF 4"}.get(magic[:3])


def arrays(path: Path, kind: str) -> dict[str, Any]:
    """`values` float64 [time, variable, latitude, longitude], NaN where missing, of all
    variables over these three dimensions; `latitude`, `longitude`, `variables`,
    `units`, and, if the file has it, `time`.

    ValueError, naming file and variable, where that is not in it, and where xarray is
    not installed.
    """
    try:
        import xarray

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What matters is raised as well.
            engine: Any = ENGINES[kind]
            opened = xarray.open_dataset(path, engine=engine, decode_cf=False)
            with opened:
                data = opened.load()
    except ImportError as error:
        raise ValueError(
            f"{path}: expected what {kind} needs, pip install -e '.[fields]', got: "
            f"{files.one_line(error)}"
        ) from None
    except Exception as error:  # A damaged file raises any kind of error.
        got = files.one_line(error)
        raise ValueError(f"{path}: expected {kind}, got {got}") from None
    return _fields(path, data)


def _fields(path: Path, data: Any) -> dict[str, Any]:
    variables = data.variables
    chosen = {name: v for name, v in variables.items() if _is_field(v.dims)}
    if not chosen:
        got = [f"{name}({', '.join(v.dims)})" for name, v in variables.items()]
        raise ValueError(
            f"{path}: expected a variable over (time, latitude, longitude), got "
            f"{', '.join(got) or 'none'}"
        )
    first, *others = chosen
    dimensions = chosen[first].dims
    for name in others:
        if chosen[name].dims != dimensions:
            raise ValueError(
                f"{path}: expected {name} over ({', '.join(dimensions)}) like {first}, "
                f"got ({', '.join(chosen[name].dims)})"
            )
    found: dict[str, Any] = {}
    for (axis, _), name in zip(AXES, dimensions, strict=True):
        if name in variables:
            found[axis] = _dates(data, name) if axis == "time" else data[name].values
        elif axis != "time":
            raise ValueError(f"{path}: expected the coordinate {name!r}, got none")
    return found | {
        "values": np.stack([_values(f"{path}: {n}", v) for n, v in chosen.items()], 1),
        "variables": list(chosen),
        "units": [str(v.attrs.get("units", "")) for v in chosen.values()],
    }


def _is_field(dimensions: tuple[str, ...]) -> bool:
    """Time, latitude and longitude, in this order, by the prefixes of their names."""
    return len(dimensions) == 3 and all(
        str(name).lower().startswith(prefix)
        for name, (_, prefix) in zip(dimensions, AXES, strict=True)
    )


def _attribute(where: str, variable: Any, name: str) -> np.ndarray:
    """The numbers of an attribute, empty where it is not set."""
    found = np.ravel(variable.attrs.get(name, np.empty(0)))
    if found.dtype.kind not in "fiu":
        got = str(variable.attrs[name])
        raise ValueError(f"{where}: expected a number as {name}, got {got!r}")
    return found


def _values(where: str, variable: Any) -> np.ndarray:
    """float64, NaN where missing, scale and offset applied.

    xarray's own masks compare in float64: it would not find a float32 that was marked
    with more digits, nor what was never written.
    """
    raw = variable.values
    if raw.dtype.kind not in "fiu":
        raise ValueError(f"{where}: expected numbers, got {raw.dtype}")
    marks = [_attribute(where, variable, n) for n in ("missing_value", "_FillValue")]
    if raw.dtype.kind == "f":
        with np.errstate(over="ignore"):
            marks = [m.astype(raw.dtype) for m in (*marks, np.array([NEVER_WRITTEN]))]
    missing = np.any([np.isin(raw, mark) for mark in marks], 0)
    scale = [*_attribute(where, variable, "scale_factor"), 1.0][0]
    offset = [*_attribute(where, variable, "add_offset"), 0.0][0]
    numbers = raw.astype(np.float64)
    numbers[missing] = np.nan
    return numbers * scale + offset


def _dates(data: Any, name: str) -> np.ndarray:
    """datetime64, or the plain numbers where xarray cannot decode their unit or
    calendar into dates."""
    import xarray

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dates = xarray.decode_cf(data[[name]]).variables[name].values
    except Exception:  # The decoder raises any kind of error.
        return data[name].values
    return dates if dates.dtype.kind == "M" else data[name].values
