"""Accuracy of recall by distance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from transformer.evaluation import attention_cost, recall_by_distance
from transformer.network import masks
from transformer.plots import attention_patterns

RNG = np.random.default_rng(0)


def batch(step: int, rows: Any) -> dict[str, np.ndarray]:
    """Questions in half of all places, at distances 1 to 64; the last row does not
    count."""
    shape = len(rows), 20
    return {
        "question_BL": (RNG.random(shape) < 0.5).astype(np.float32),
        "distance_BL": RNG.integers(1, 65, shape),
        "targets_BL": RNG.integers(0, 5, shape),
        "weight_B": np.r_[np.ones(len(rows) - 1), 0].astype(np.float32),
    }


def test_accuracy_is_that_of_each_bin_of_distances() -> None:
    held_out = SimpleNamespace(batch=batch, batch_size=4, batches=2)

    def logits(params: Any, batch: Any) -> Any:
        """Correct for distances below 17 in the rows that count, wrong elsewhere."""
        near_BL = (batch["distance_BL"] < 17) & (batch["weight_B"] > 0)[:, None]
        one_hot_BLV = jax.nn.one_hot(batch["targets_BL"], 5)
        return {"near": one_hot_BLV * (2.0 * near_BL - 1)[..., None]}

    bins = (1, 17, 65)
    accuracy = recall_by_distance.accuracy_by_distance(
        logits, held_out, None, bins=bins
    )
    assert accuracy == {"near": [1.0, 0.0]}
    costs = {"near": {64: attention_cost.Cost(0.1, 10), 128: attention_cost.Cost(1, 9)}}
    figure = attention_patterns.plot_attention_patterns(
        {"near": masks.window(16)}, accuracy, costs, bins=bins, chance=0.2
    )
    assert len(figure.axes) == 4
