"""NetCDF 3, NetCDF 4 (HDF5) and Zarr as fields on a grid, decoded by xarray.

Values, coordinates and times are what xarray decodes by the CF conventions 1.11:
sections 2.5.1 (missing data), 4.4 (time), 8.1 (packed data). Beside that, a float is
missing where it equals its mark in its own precision, and where it was never written.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.readers import files

ENGINES = {"NetCDF 3": "scipy", "NetCDF 4": "h5netcdf", "Zarr": "zarr"}
NEVER_WRITTEN = 9.969209968386869e36  # the default fill value of the format
AXES = ("time", "latitude", "longitude")
PREFIXES = ("t", "lat", "lon")
# CF 1.11, sections 4.1 and 4.2.
UNITS = {
    unit: f"{axis}itude"
    for axis, side in (("lat", "north"), ("long", "east"))
    for word in ("degree", "degrees")
    for unit in (f"{word}_{side}", f"{word}_{side[0]}", f"{word}{side[0]}")
}
STANDARD = {"standard", "gregorian", "proleptic_gregorian", "noleap", "365_day"}
GREGORIAN_START = (1582, 10, 15)


def format_of(path: Path) -> str | None:
    """Which of ENGINES `path` is, or None. Raises OSError."""
    if path.is_dir():
        zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup"))
        return "Zarr" if zarr else None
    with open(path, "rb") as file:
        magic = file.read(4)
    return {b"CDF": "NetCDF 3", b"\x89HD": "NetCDF 4"}.get(magic[:3])


def arrays(path: Path, kind: str) -> dict[str, Any]:
    """`values` [time, variable, latitude, longitude], NaN where missing, of all
    variables over these three dimensions, in any order; `latitude`, `longitude`,
    `variables`, `units`, and, if the file has it, `time`.

    Variables of three dimensions or more that are left out are printed in one line.
    ValueError, naming file and variable, where there is none, and where xarray is not
    installed.
    """
    try:
        import xarray

        engine: Any = ENGINES[kind]
        with _quiet(xarray.open_dataset, path, engine=engine, decode_cf=False) as data:
            data = data.load()
    except ImportError as error:
        raise ValueError(
            f"{path}: expected what {kind} needs, pip install -e '.[fields]', got: "
            f"{files.one_line(error)}"
        ) from None
    except Exception as error:  # A damaged file raises any kind of error.
        got = files.one_line(error)
        raise ValueError(f"{path}: expected {kind}, got {got}") from None
    return _fields(path, data)


def _quiet(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """The result without warnings: what matters is raised as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **keywords)


def _axis(data: Any, name: str) -> str | None:
    """Which of AXES a dimension is, by its coordinate's attributes or by its name."""
    found = data.variables[name].attrs if name in data.variables else {}
    units = str(found.get("units", ""))
    if found.get("standard_name") in AXES:
        return str(found["standard_name"])
    if units.lower() in UNITS:
        return UNITS[units.lower()]
    if " since " in units:
        return "time"
    named = zip(AXES, PREFIXES, strict=True)
    return next((a for a, start in named if name.lower().startswith(start)), None)


def _choose(path: Path, data: Any) -> dict[str, Any]:
    """The variables over time, latitude and longitude, in this order; dimensions of
    size 1 that are none of these are dropped."""
    axes = {str(name): _axis(data, str(name)) for name in data.sizes}
    chosen, others = {}, []
    for name, variable in data.variables.items():
        single = [d for d in variable.dims if variable.sizes[d] == 1 and not axes[d]]
        squeezed = variable.squeeze(single)
        of_axes = {axes[dimension]: dimension for dimension in squeezed.dims}
        if len(squeezed.dims) == 3 and set(of_axes) == set(AXES):
            chosen[name] = squeezed.transpose(*(of_axes[axis] for axis in AXES))
        elif len(squeezed.dims) > 2:
            others.append(f"{name}({', '.join(squeezed.dims)})")
    if not chosen:
        got = [f"{name}({', '.join(v.dims)})" for name, v in data.variables.items()]
        raise ValueError(
            f"{path}: expected a variable over (time, latitude, longitude), got "
            f"{', '.join(got) or 'none'}"
        )
    if others:
        print(f"{path}: {', '.join(others)} left out: other dimensions", flush=True)
    return chosen


def _degrees(where: str, variable: Any) -> np.ndarray:
    """A latitude or longitude; ValueError where its unit is another one: radians would
    be taken as degrees near the equator."""
    unit = str(variable.attrs.get("units", ""))
    if unit and not unit.lower().startswith(("deg", "\N{DEGREE SIGN}")):
        raise ValueError(f"{where}: expected the unit degrees, got {unit!r}")
    return _decode(where, variable)


def _fields(path: Path, data: Any) -> dict[str, Any]:
    chosen = _choose(path, data)
    first, *others = chosen
    dimensions = chosen[first].dims
    for name in others:
        if chosen[name].dims != dimensions:
            raise ValueError(
                f"{path}: expected {name} over ({', '.join(dimensions)}) like {first}, "
                f"got ({', '.join(chosen[name].dims)})"
            )
    found: dict[str, Any] = {}
    for axis, name in zip(AXES, dimensions, strict=True):
        if name in data.variables:
            where = f"{path}: {name}"
            coordinate = data.variables[name]
            decode = _times if axis == "time" else _degrees
            found[axis] = decode(where, coordinate)
        elif axis != "time":
            raise ValueError(f"{path}: expected the coordinate {name!r}, got none")
    return found | {
        "values": np.stack([_values(f"{path}: {n}", v) for n, v in chosen.items()], 1),
        "variables": list(chosen),
        "units": [str(v.attrs.get("units", "")) for v in chosen.values()],
    }


def _decode(where: str, variable: Any, times: bool = False) -> np.ndarray:
    """The values of a variable as xarray decodes them."""
    import xarray

    data = xarray.Dataset({"x": variable})
    options: Any = {"decode_times": times, "decode_timedelta": False}
    try:
        return _quiet(lambda: xarray.decode_cf(data, **options).variables["x"].values)
    except Exception as error:  # The decoder raises any kind of error.
        got = files.one_line(error)
        raise ValueError(f"{where}: expected CF conventions, got {got}") from None


def _attribute(where: str, variable: Any, name: str) -> np.ndarray:
    """The numbers of an attribute, empty where it is not set."""
    found = np.ravel(variable.attrs.get(name, np.empty(0)))
    if found.dtype.kind not in "fiu":
        got = str(variable.attrs[name])
        raise ValueError(f"{where}: expected a number as {name}, got {got!r}")
    return found


def _values(where: str, variable: Any) -> np.ndarray:
    """Floats, NaN where missing.

    xarray compares marks in float64: it would not find a float32 that was marked with
    more digits, nor what was never written.
    """
    raw = variable.values
    if raw.dtype.kind not in "fiu":
        raise ValueError(f"{where}: expected numbers, got {raw.dtype}")
    for name in ("scale_factor", "add_offset"):
        _attribute(where, variable, name)
    marks = [_attribute(where, variable, n) for n in ("missing_value", "_FillValue")]
    decoded = _decode(where, variable)
    if raw.dtype.kind != "f":
        return decoded.astype(np.float64)
    with np.errstate(over="ignore"):
        marks = [m.astype(raw.dtype) for m in (*marks, np.array([NEVER_WRITTEN]))]
    missing = np.any([np.isin(raw, mark) for mark in marks], 0)
    return np.where(missing, np.nan, decoded)


def _times(where: str, variable: Any) -> np.ndarray:
    """datetime64, or cftime dates of a calendar that it does not have, or the plain
    numbers where xarray cannot decode their unit into dates: that is printed."""
    try:
        times = _decode(where, variable, times=True)
    except ValueError:
        if importlib.util.find_spec("cftime") is None:
            raise ValueError(
                f"{where}: expected what its dates need, pip install -e '.[fields]', "
                "got: No module named 'cftime'"
            ) from None
        unit = variable.attrs.get("units", "")
        print(f"{where}: no dates in {unit!r}, numbers instead", flush=True)
        return variable.values
    if times.dtype.kind != "O":
        return times
    first = times[0]
    if first.calendar in STANDARD and (
        (first.year, first.month, first.day) >= GREGORIAN_START
    ):
        return np.array([time.isoformat() for time in times], "datetime64[ms]")
    return times
