"""Classic NetCDF files (version 3), as far as fields on a grid need them.

Conventions: CF 1.11, sections 2.5.1 (missing data), 4.4 (time), 8.1 (packed data).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.data.readers import files

CLASSIC, HDF5 = b"CDF", b"\x89HDF"
AXES = (("time", "t"), ("latitude", "lat"), ("longitude", "lon"))
ATTRIBUTES = (
    *("missing_value", "_FillValue", "scale_factor", "add_offset"),
    *("units", "calendar"),
)
NEVER_WRITTEN = 9.969209968386869e36  # what the format puts where nothing was written
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
SINCE = re.compile(
    r"(second|minute|hour|day)s? since (\d{1,4})-(\d{1,2})-(\d{1,2})"
    r"(?:[ T](\d{1,2}):(\d{1,2})(?::\d{1,2}(?:\.\d*)?)?)?(?: ?(?:Z|UTC|\+0?0:00))?"
)
CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")
REFORM = 1583  # the first whole year in which these calendars agree


class Variable(NamedTuple):
    """The names of its dimensions, its raw numbers, and those ATTRIBUTES it has."""

    dimensions: tuple[str, ...]
    raw: np.ndarray
    attributes: dict[str, Any]


def _variables(path: Path) -> dict[str, Variable]:
    from scipy.io import netcdf_file

    try:
        with netcdf_file(str(path), "r", mmap=False) as file:
            return {
                name: Variable(
                    found.dimensions,
                    np.asarray(found.data),
                    {
                        key: getattr(found, key)
                        for key in ATTRIBUTES
                        if hasattr(found, key)
                    },
                )
                for name, found in file.variables.items()
            }
    except Exception as error:  # A damaged file raises whatever its reader met.
        got = files.said(error)
        raise ValueError(f"{path}: expected NetCDF 3, got {got}") from None


def _is_field(dimensions: tuple[str, ...]) -> bool:
    """Time, latitude and longitude, in this order, by the beginnings of their names."""
    return len(dimensions) == 3 and all(
        name.lower().startswith(short)
        for name, (_, short) in zip(dimensions, AXES, strict=True)
    )


def _text(variable: Variable, attribute: str) -> str:
    value = variable.attributes.get(attribute, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _numbers(where: str, variable: Variable, attribute: str) -> np.ndarray:
    """The numbers of an attribute, none where it is not there."""
    found = np.ravel(variable.attributes.get(attribute, np.empty(0)))
    if found.dtype.kind not in "fiu":
        got = _text(variable, attribute)
        raise ValueError(f"{where}: expected a number as {attribute}, got {got!r}")
    return found


def _values(where: str, variable: Variable) -> np.ndarray:
    """float64, NaN where missing."""
    raw = variable.raw
    if raw.dtype.kind not in "fiu":
        raise ValueError(f"{where}: expected numbers, got {raw.dtype}")
    names = ("missing_value", "_FillValue")
    marks = [_numbers(where, variable, name) for name in names]
    if raw.dtype.kind == "f":
        # A mark is often written with more digits than the numbers it marks.
        with np.errstate(over="ignore"):
            marks = [m.astype(raw.dtype) for m in (*marks, np.array([NEVER_WRITTEN]))]
    missing = np.any([np.isin(raw, mark) for mark in marks], 0)
    scale = [*_numbers(where, variable, "scale_factor"), 1.0][0]
    offset = [*_numbers(where, variable, "add_offset"), 0.0][0]
    numbers = raw.astype(np.float64)
    numbers[missing] = np.nan
    return numbers * scale + offset


def _dates(variable: Variable) -> np.ndarray:
    """datetime64[s], or the numbers as they are where their unit is no date's."""
    numbers = variable.raw
    since = SINCE.fullmatch(_text(variable, "units").strip())
    known = _text(variable, "calendar").strip().lower() in CALENDARS
    if numbers.dtype.kind not in "fiu" or not since or not known:
        return numbers
    unit, year, month, day, hour, minute = since.groups("0")
    seconds = np.round(numbers.astype(np.float64) * SECONDS[unit])
    if int(year) < REFORM or not (np.abs(seconds) < 2**53).all():
        return numbers
    try:
        origin = np.datetime64(f"{year}-{month:>02}-{day:>02}", "s")
    except ValueError:
        return numbers
    start = origin + np.timedelta64(3600 * int(hour) + 60 * int(minute), "s")
    return start + seconds.astype(np.int64).astype("timedelta64[s]")


def arrays(path: Path) -> dict[str, Any]:
    """`values` float64 [time, variable, latitude, longitude], NaN where missing, of all
    variables over these three; `latitude`, `longitude`, `variables`, `units`, and, if
    the file has it, `time`. ValueError, naming file and variable, otherwise."""
    variables = _variables(path)
    taken = {name: v for name, v in variables.items() if _is_field(v.dimensions)}
    if not taken:
        got = [f"{name}({', '.join(v.dimensions)})" for name, v in variables.items()]
        raise ValueError(
            f"{path}: expected a variable over (time, latitude, longitude), got "
            f"{', '.join(got) or 'none'}"
        )
    first, *others = taken
    dimensions = taken[first].dimensions
    for name in others:
        if taken[name].dimensions != dimensions:
            raise ValueError(
                f"{path}: expected {name} over ({', '.join(dimensions)}) like {first}, "
                f"got ({', '.join(taken[name].dimensions)})"
            )
    places = dict(zip((word for word, _ in AXES), dimensions, strict=True))
    found: dict[str, Any] = {}
    for word, name in places.items():
        if name in variables:
            found[word] = variables[name].raw
        elif word != "time":
            raise ValueError(f"{path}: expected the coordinate {name!r}, got none")
    if "time" in found:
        found["time"] = _dates(variables[places["time"]])
    stacked = [_values(f"{path}: {name}", v) for name, v in taken.items()]
    units = [_text(v, "units") for v in taken.values()]
    return found | {
        "values": np.stack(stacked, 1),
        "variables": list(taken),
        "units": units,
    }
