"""The step and the year of a series, from its dates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformer.data import time_axis


def hours(start: str, stop: str, step: int) -> np.ndarray:
    return np.arange(start, stop, step, dtype="datetime64[h]").astype("M8[s]")


SERIES = {
    "month": (np.arange("1999-06", "2005-02", dtype="datetime64[M]"), 12, 0),
    "day": (np.arange("2000-01-01", "2005-01-01", dtype="datetime64[D]"), 365, 2),
    "6 hours": (hours("2003-03-05T06", "2006-01-01T00", 6), 1460, 4),
    "0.5 hours": (np.arange("2001-01-01", "2001-03-01", 30, "datetime64[m]"), 17520, 0),
}


@pytest.mark.parametrize("step", SERIES)
def test_the_step_is_that_of_the_dates(step: str) -> None:
    time, year, leap_steps = SERIES[step]
    if step == "month":  # on any day of it
        time = time.astype("datetime64[D]") + np.arange(len(time)) % 28
    axis = time_axis.read("a", time)
    assert (axis.step, axis.steps_per_year) == (step, year)
    left_out = time[~axis.keep].astype("datetime64[D]").astype(str)
    assert len(left_out) == leap_steps
    assert all(date.endswith("02-29") for date in left_out)
    # Of whole years, the same step of each year has the same date.
    kept = time[axis.keep]
    if len(kept) > year and step != "month":
        first, then = (date.astype(str)[5:] for date in kept[[0, year]])
        assert first == then
    numbers = time_axis.read("a", 5 + 3 * np.arange(40))
    assert numbers.steps_per_year == 12 and not numbers.has_dates


@pytest.mark.parametrize(
    ("calendar", "year"),
    [("360_day", 360), ("noleap", 365), ("all_leap", 366), ("julian", 365)],
)
def test_the_year_is_that_of_the_calendar(calendar: str, year: int) -> None:
    cftime = pytest.importorskip("cftime")
    time = cftime.num2date(np.arange(0, 3000, 0.25), "days since 2001-02-05", calendar)
    axis = time_axis.read("a", time)
    assert axis.steps_per_year == 4 * year and axis.step == "6 hours"
    assert (~axis.keep).sum() == (8 if calendar == "julian" else 0)
    months = [cftime.datetime(1, m, 15, calendar=calendar) for m in range(1, 13)]
    assert time_axis.read("a", np.array(months)).step == "month"


def without(time: np.ndarray, index: int) -> np.ndarray:
    return np.delete(time, index)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (without(SERIES["month"][0], 7), "got 2000-02 after 1999-12"),
        (without(SERIES["day"][0], 100), "got 2000-04-11 after 2000-04-09"),
        (SERIES["day"][0][::7], "got steps of 7 days"),
        (np.arange("2001-01-01T00", "2001-02-01T00", 5, "M8[h]"), "steps of 5 hours"),
        (np.array([0, 1, 2, 4]), "expected equal steps, got 4 after 2 at step 3"),
    ],
)
def test_other_steps_are_refused(time: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^ocean.nc: expected equal steps") as caught:
        time_axis.read("ocean.nc", time)
    assert message in str(caught.value) and "\n" not in str(caught.value)
