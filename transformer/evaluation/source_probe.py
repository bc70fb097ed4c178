"""What a frozen model's features tell of where a passage is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.evaluation.baselines import linear_probe


def told(
    vectors: Callable[[Any, jax.Array], jax.Array],
    params: Mapping[str, Any],
    texts: Sequence[np.ndarray],
    *,
    length: int,
) -> dict[str, float]:
    """How often a linear reader of the vector of a passage of `length` tokens tells
    which of the texts it is from, for each of some parameters by name.

    vectors(params, ids_BL): the model, (B, D). texts: tokens [N] of each; the reader
    learns from passages of the first half of each and is asked about the second.
    """
    passages = [ids[: len(ids) // length * length].reshape(-1, length) for ids in texts]
    halves = [(p[: len(p) // 2], p[len(p) // 2 :]) for p in passages]
    known, asked = (np.concatenate(half) for half in zip(*halves, strict=True))
    label, right = (
        np.repeat(np.arange(len(texts)), [len(half) for half in side])
        for side in zip(*halves, strict=True)
    )
    compiled = jax.jit(vectors)

    def accuracy(params: Any) -> float:
        x, y = (
            np.asarray(
                linear_probe.in_parts(partial(compiled, params), ids), np.float32
            )
            for ids in (known, asked)
        )
        scale = np.maximum(x.std(0), 1e-6)
        chosen = linear_probe.linear(x / scale, label, y / scale, classes=len(texts))
        return float((chosen == right).mean())

    guessed = float(np.bincount(right).max() / len(right))
    by_name = {f"text told, {name}": accuracy(of) for name, of in params.items()}
    return {**by_name, "text told, always the same": guessed}
