"""Fields on a grid of latitudes and longitudes that change with time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Fields(NamedTuple):
    """One series of maps; the steps before `train_steps` are for training.

    name: what the user asked for, for messages. identity: changes when the data does.
    values: float32 [time, variable, latitude, longitude], NaN where missing.
    latitude, longitude: float32, degrees north and east.
    time: datetime64[D], or whole numbers where the source knows no dates.
    variables, units: a word for each of the second dimension of `values`.
    train_steps: how many of the first steps are for training; validation is later.
    """

    name: str
    identity: str
    values: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    time: np.ndarray
    variables: tuple[str, ...]
    units: tuple[str, ...]
    train_steps: int
