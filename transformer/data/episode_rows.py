"""Episodes as the rows of a decision transformer (Chen et al. 2021, arXiv 2106.01345):
`return_to_go_BT`, `observation_BTP`, `action_BT` and `length_B`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer.data.records import Records
from transformer.data.sources import episodes as episode_source


def returns_to_go(rewards_BT: np.ndarray) -> np.ndarray:
    """The sum of the rewards from each step on; rewards after the end are 0."""
    return rewards_BT[:, ::-1].cumsum(1)[:, ::-1]


def load(source: str) -> Records:
    """The episodes of the user's own folder; `labels` are the numbers of the actions.

    Raises ValueError for actions that are not whole numbers.
    """
    data = episode_source.load(source)
    actions = [np.asarray(part["actions"]) for part in (data.train, data.validation)]
    if actions[0].ndim != 2:
        raise ValueError(
            f"{source}: expected actions [T] of whole numbers from 0, got actions of "
            f"{actions[0].dtype} {list(actions[0].shape[2:])} a step"
        )
    count = 1 + max(int(part.max()) for part in actions)
    train, held_out = _rows(data.train), _rows(data.validation)
    labels = tuple(map(str, range(count)))
    return data._replace(train=train, validation=held_out, labels=labels)


def _rows(part: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        "return_to_go_BT": returns_to_go(part["rewards"]),
        "observation_BTP": part["observations"],
        "action_BT": part["actions"],
        "length_B": part["length"],
    }
