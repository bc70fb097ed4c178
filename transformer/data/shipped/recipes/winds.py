"""Eleven years of global monthly mean winds, from a NetCDF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.data.shipped.recipes import packages

PACKAGES = (
    packages.Package(
        "Debian",
        "ferret-datasets",
        "7.6.0-5",
        "e5770222647ebfe2ab77b845e07a7e05cb6fed7b12dec9ae287a1f8046031744",
    ),
)
DATA = "usr/share/ferret-vis/data/monthly_navy_winds.cdf"
VARIABLES = {"UWND": "eastward wind", "VWND": "northward wind"}
STEP = 0.001
TRAIN_STEPS = 96
ORIGIN = {
    "name": "winds",
    "what": "monthly mean winds near the surface, January 1982 to December 1992, on a "
    "grid of 2.5 degrees, after the US Navy's Fleet Numerical Oceanography Center",
    "licence": "public domain (US government; distributed by NOAA with Ferret)",
    "homepage": "https://ferret.pmel.noaa.gov",
    "packages": packages.facts(PACKAGES),
    "built_by": "transformer/data/shipped/build.py",
    "format": "values: 16-bit signed integers, little-endian, [month, variable, "
    "latitude, longitude], first all low bytes, then all high ones, each the "
    "difference to the grid point before; xz",
    "split": f"the first {TRAIN_STEPS} months (1982-1989) are train, later ones "
    "validation",
}


def month(hours: float) -> str:
    """The month, as 1982-01, of a time in hours since 14 January 1980, 14:00."""
    start = np.datetime64("1980-01-14T14:00", "m")
    return str((start + np.timedelta64(round(hours * 60), "m")).astype("datetime64[M]"))


def build(roots: Sequence[Path]) -> packages.Dataset:
    """All months in one file of 16-bit integers, coordinates in the record."""
    from scipy.io import netcdf_file

    with netcdf_file(str(roots[0] / DATA), "r", mmap=False) as file:
        get = file.variables
        values = np.stack([np.array(get[name].data) for name in VARIABLES], axis=1)
        axes = {key: get[key].data.tolist() for key in ("FNOCX", "FNOCY", "TIME")}
        missing = float(get["UWND"].missing_value)
    if np.any(values == np.float32(missing)) or not np.all(np.isfinite(values)):
        raise ValueError("winds: expected no missing values, got some")
    whole = np.rint(values.astype(np.float64) / STEP).astype("<i2")
    split = np.ascontiguousarray(whole).view(np.uint8).reshape(-1, 2).T
    record = {
        **ORIGIN,
        "shape": list(values.shape),
        "unit": "m/s",
        "scale": STEP,
        "offset": 0.0,
        "missing": "none",
        "variables": list(VARIABLES.values()),
        "months": [month(hours) for hours in axes["TIME"]],
        "latitude": axes["FNOCY"],
        "longitude": axes["FNOCX"],
        "train_steps": TRAIN_STEPS,
    }
    data = packages.pack(split.tobytes(), stride_bytes=1)
    return packages.Dataset({"values.xz": data}, record)
