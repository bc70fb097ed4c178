"""NetCDF and Zarr are read as xarray decodes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformer.data.sources import fields as field_source

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")
RNG = np.random.default_rng(0)


def data_set(
    values: np.ndarray,
    *,
    dimensions: tuple[str, ...] = ("time", "lat", "lon"),
    coordinates: dict[str, Any] | None = None,
    **facts: Any,
) -> Any:
    """A raw data set, as it lies in a file; coordinates: (values, attributes)."""
    found: dict[str, Any] = {
        name: (name, np.arange(size, dtype=np.float64), {})
        for name, size in zip(dimensions, values.shape, strict=True)
    }
    for name, (array, attributes) in (coordinates or {}).items():
        found[name] = (name, array, attributes)
    return xarray.Dataset({"sst": (dimensions, values, facts)}, coords=found)


def load(path: Path, data: Any) -> Any:
    data.to_netcdf(path, engine="h5netcdf")
    return field_source.load(path)


def test_packed_values_and_coordinates_are_those_of_xarray(tmp_path: Path) -> None:
    raw = np.full((3, 4, 2), -128, np.int8)
    raw[0, 0] = 3, -1
    latitude = {"scale_factor": 0.5, "add_offset": 5.0, "units": "degrees_north"}
    data = data_set(
        raw,
        coordinates={"lat": (np.array([60, 20, -20, -60], np.int16), latitude)},
        _Unsigned="true",
        scale_factor=0.5,
        _FillValue=np.int8(-1),
    )
    made = load(tmp_path / "a.nc", data)
    assert made.latitude.tolist() == [35, 15, -5, -25]
    assert made.values[1, 0, 0, 0] == 64
    decoded = xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf")
    np.testing.assert_array_equal(made.values[:, 0], decoded["sst"].values)
    np.testing.assert_array_equal(made.latitude, decoded["lat"].values)
    assert np.isnan(made.values[0, 0, 0, 1]) and made.values[0, 0, 0, 0] == 1.5


def test_coordinates_in_another_unit_are_refused(tmp_path: Path) -> None:
    """Radians would be degrees near the equator."""
    values = np.zeros((3, 2, 2), np.float32)
    radians = {"lat": (np.array([1.0, -1.0]), {"units": "radians"})}
    with pytest.raises(ValueError, match="lat: expected the unit degrees, got 'rad"):
        load(tmp_path / "a.nc", data_set(values, coordinates=radians))


PACKED = [
    (np.int16, {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -32768}),
    (np.int16, {"missing_value": 99, "scale_factor": np.float32(0.1)}),
    (np.uint8, {"_Unsigned": "false", "scale_factor": 2.0}),
    (np.int32, {"add_offset": -7}),
    (np.float32, {"_FillValue": np.float32(3), "scale_factor": 10.0}),
    (np.float64, {"missing_value": 3.0}),
]


@pytest.mark.parametrize(("kind", "facts"), PACKED)
def test_packing_of_any_kind(tmp_path: Path, kind: Any, facts: dict[str, Any]) -> None:
    raw = RNG.integers(0, 100, (4, 3, 5)).astype(kind)
    raw[0, 0, :4] = 3, 99, 100, 120
    marks = {k: kind(v) if "ill" in k or "miss" in k else v for k, v in facts.items()}
    made = load(tmp_path / "a.nc", data_set(raw, **marks))
    decoded = xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf")["sst"].values
    np.testing.assert_allclose(made.values[:, 0], decoded.astype(np.float32))


@pytest.mark.parametrize(
    ("units", "step", "calendar"),
    [
        ("seconds since 1990-01-01 06:00", 21600, "standard"),
        ("hours since 1900-01-01", 24, "gregorian"),
        ("days since 1850-01-01", 0.25, "proleptic_gregorian"),
        ("minutes since 2000-02-28", 1440, "noleap"),
        ("days since 2000-01-01", 1, "360_day"),
        ("days since 0001-01-01", 1, "standard"),
    ],
)
@pytest.mark.filterwarnings("ignore:Unable to decode time")
def test_times_are_those_of_xarray(
    tmp_path: Path, units: str, step: float, calendar: str
) -> None:
    pytest.importorskip("cftime")
    offset = 10**5 if "0001" in units else 0
    facts = {"units": units, "calendar": calendar}
    time = offset + step * np.arange(60.0)
    data = data_set(np.zeros((60, 2, 2), "f4"), coordinates={"time": (time, facts)})
    made = load(tmp_path / "a.nc", data).time
    decoded = xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf")["time"].values
    words = [str(one).replace("T", " ")[:19] for one in decoded]
    got = made.astype("M8[s]") if made.dtype.kind == "M" else made
    assert [str(one).replace("T", " ")[:19] for one in got] == words
    assert (made.dtype.kind == "O") == (calendar == "360_day" or "0001" in units)


def test_dimensions_are_found_by_their_attributes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any order, whatever they are called; dimensions of size 1 are dropped, other
    variables are named."""
    values = RNG.normal(size=(3, 1, 4, 5)).astype(np.float32)
    data = data_set(
        values,
        dimensions=("x", "height", "y", "valid_time"),
        coordinates={
            "x": (np.arange(3.0), {"units": "degrees_east"}),
            "y": (np.arange(4.0), {"standard_name": "latitude"}),
            "valid_time": (np.arange(5.0), {"units": "days since 2001-01-01"}),
        },
    )
    data["deep"] = ("x", "y", "level", "valid_time"), np.zeros((3, 4, 2, 5))
    made = load(tmp_path / "a.nc", data)
    np.testing.assert_array_equal(made.values[:, 0], values[:, 0].transpose(2, 1, 0))
    assert made.longitude.tolist() == [0, 1, 2] and made.time.dtype == "<M8[D]"
    assert made.variables == ("sst",)
    line = "deep(x, y, level, valid_time) left out: other dimensions\n"
    assert line in capsys.readouterr().out


def test_numbers_in_place_of_dates_are_printed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("cftime")
    facts = {"units": "months since 2000-01-01"}
    data = data_set(
        np.zeros((3, 2, 2), "f4"), coordinates={"time": (np.arange(3.0), facts)}
    )
    assert load(tmp_path / "a.nc", data).time.tolist() == [0, 1, 2]
    assert "time: no dates in 'months since 2000-01-01', numbers instead" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[fields\]'"):
        field_source.load(tmp_path / "a.nc")
