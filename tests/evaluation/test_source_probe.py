"""The linear probe of passages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.evaluation import source_probe

RNG = np.random.default_rng(0)


def test_a_probe_separates_texts_by_their_features_alone() -> None:
    texts = [RNG.integers(0, 5, 640), RNG.integers(5, 10, 640)]
    one_hot: Any = jnp.eye(10)

    def features(scale: Any, ids_BL: jax.Array) -> jax.Array:
        return scale * one_hot[ids_BL].mean(1)

    accuracy = source_probe.source_probe_accuracy(
        features, {"counts": 1.0, "zeros": 0.0}, texts, length=16
    )
    assert accuracy == {
        "probe_accuracy/counts": 1.0,
        "probe_accuracy/zeros": 0.5,
        "probe_accuracy/majority_class": 0.5,
    }
