"""Associative recall by the distance from the question to its needle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


def accuracy_by_distance(
    logits: Callable[..., Mapping[str, jax.Array]],
    held_out: Any,
    params: Any,
    *,
    bins: Sequence[int],
) -> dict[str, list[float]]:
    """Accuracy of the answers of each model, by distance.

    logits(params, batch): (B, L, V) by the model's name. held_out: an `Evaluation` on
    rows of `data/text/associative_recall.py`. bins: edges of the distances; the last
    one is excluded.
    """
    hits: dict[str, list[np.ndarray]] = defaultdict(list)
    distances, compiled = [], jax.jit(logits)
    for step in range(held_out.batches):
        batch = held_out.batch(step, range(held_out.batch_size))
        question_BL = (batch["question_BL"] > 0) & (batch["weight_B"] > 0)[:, None]
        distances.append(batch["distance_BL"][question_BL])
        for name, logits_BLV in compiled(params, batch).items():
            correct_BL = np.asarray(logits_BLV.argmax(-1)) == batch["targets_BL"]
            hits[name].append(correct_BL[question_BL])
    bin_ = np.digitize(np.concatenate(distances), bins) - 1
    accuracy = {}
    for name, parts in hits.items():
        correct = np.concatenate(parts)
        accuracy[name] = [
            float(correct[bin_ == n].mean()) for n in range(len(bins) - 1)
        ]
    return accuracy
