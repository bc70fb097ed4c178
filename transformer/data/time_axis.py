"""The step of a series in time and the steps of its year, read from its dates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

DAY_SECONDS = 86400
MONTHS = 12
_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_LEAP = _DAYS + (np.arange(MONTHS) == 1)
# The days of the months, of calendars that cftime knows by two names each.
_CALENDARS = {
    "360_day": np.full(MONTHS, 30),
    "all_leap": _LEAP,
    "366_day": _LEAP,
}


class TimeAxis(NamedTuple):
    """steps_per_year: of equal length. step: its name. keep: bool [T], False for the
    steps of February 29, which most years do not have. has_dates: whether the series
    has dates; if not, a step is taken as a month."""

    steps_per_year: int
    step: str
    keep: np.ndarray
    has_dates: bool = True


def _dates(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Year, month from 1, day from 1 and second of the day of each date, int64 [T, 4],
    and the days of the calendar's months."""
    if time.dtype.kind == "O":
        days = _CALENDARS.get(time[0].calendar, _DAYS)
        rows = [
            (t.year, t.month, t.day, 3600 * t.hour + 60 * t.minute + t.second)
            for t in time
        ]
        return np.array(rows, np.int64), days
    month = time.astype("datetime64[M]")
    day = time.astype("datetime64[D]")
    months = month.astype(np.int64)
    columns = (
        months // MONTHS + 1970,
        months % MONTHS + 1,
        (day - month).astype(np.int64) + 1,
        (time.astype("datetime64[s]") - day).astype(np.int64),
    )
    return np.stack(columns, 1), _DAYS


def _duration(seconds: int) -> str:
    if seconds % DAY_SECONDS == 0:
        days = seconds // DAY_SECONDS
        return "day" if days == 1 else f"{days} days"
    return f"{seconds / 3600:g} hours"


def _first_unequal(name: str, what: str, time: np.ndarray, step: np.ndarray) -> None:
    """ValueError for the first step that is not the most frequent one."""
    values, counts = np.unique(step, return_counts=True)
    wrong = np.flatnonzero(step != values[np.argmax(counts)])
    if len(wrong):
        at = wrong[0] + 1
        raise ValueError(
            f"{name}: expected {what}, got {time[at]} after {time[at - 1]} at step {at}"
        )


def read(name: str, time: np.ndarray) -> TimeAxis:
    """The axis of `time`: datetime64, cftime dates, or numbers.

    A step is a month, or a day or a whole fraction of it. The year of a calendar with
    leap days has 365 days: February 29 is not kept. ValueError, naming the series and
    the first step, where steps are not equal, or of another length.
    """
    everything = np.ones(len(time), bool)
    if time.dtype.kind not in "MO":
        _first_unequal(name, "equal steps", time, np.diff(time))
        return TimeAxis(MONTHS, "month", everything, has_dates=False)
    expected = "equal steps of a month, or of a day or a fraction of it"
    dates, days = _dates(time)
    months = np.diff(dates[:, 0] * MONTHS + dates[:, 1])
    if np.median(months) == 1:
        _first_unequal(name, expected, time, months)
        return TimeAxis(MONTHS, "month", everything)
    keep = dates[:, 2] <= days[dates[:, 1] - 1]
    year, month, day, second = dates[keep].T
    before = np.concatenate([[0], np.cumsum(days)])
    ordinal = year * before[-1] + before[month - 1] + day - 1
    steps = np.diff(ordinal * DAY_SECONDS + second)
    step = int(np.median(steps)) if len(steps) else 0
    if step == 0 or DAY_SECONDS % step:
        raise ValueError(f"{name}: expected {expected}, got steps of {_duration(step)}")
    _first_unequal(name, expected, time[keep], steps)
    return TimeAxis(int(before[-1]) * DAY_SECONDS // step, _duration(step), keep)


def describe(axis: TimeAxis) -> list[str]:
    """Notices about the axis of a series, in words."""
    notes: list[str] = []
    if not axis.has_dates:
        notes.append("it has no dates: a step is taken as a month")
    left_out: Any = len(axis.keep) - axis.keep.sum()
    if left_out:
        notes.append(f"{left_out} steps of February 29 are left out")
    return notes
