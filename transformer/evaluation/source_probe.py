"""Linear probe on frozen features: which book is this passage from?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.evaluation import image_classifier
from transformer.evaluation.baselines import linear_probe


def source_probe_accuracy(
    features: Callable[[Any, jax.Array], jax.Array],
    params: Mapping[str, Any],
    texts: Sequence[np.ndarray],
    *,
    length: int,
) -> dict[str, float]:
    """Test accuracy of a linear probe that predicts which text a passage of `length`
    tokens is from, by the name of the parameters.

    features(params, ids_BL): the model, (B, D). texts: token ids [N] of each; the probe
    is trained on passages of the first half of each text and tested on the second.
    """
    passages = [ids[: len(ids) // length * length].reshape(-1, length) for ids in texts]
    halves = [(p[: len(p) // 2], p[len(p) // 2 :]) for p in passages]
    train, test = (np.concatenate(half) for half in zip(*halves, strict=True))
    train_label, test_label = (
        np.repeat(np.arange(len(texts)), [len(half) for half in side])
        for side in zip(*halves, strict=True)
    )
    compiled = jax.jit(features)

    def accuracy(params: Any) -> float:
        apply = partial(compiled, params)
        x, y = (
            np.asarray(image_classifier.map_batches(apply, ids), np.float32)
            for ids in (train, test)
        )
        scale = np.maximum(x.std(0), 1e-6)
        predicted = linear_probe.logistic_regression(x / scale, train_label, y / scale)
        return float((predicted == test_label).mean())

    majority = float(np.bincount(test_label).max() / len(test_label))
    by_name = {f"probe_accuracy/{name}": accuracy(of) for name, of in params.items()}
    return {**by_name, "probe_accuracy/majority_class": majority}
