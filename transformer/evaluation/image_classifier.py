"""A trained image classifier as functions of 8-bit images, sampled images included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np


class ImageClassifier(NamedTuple):
    """Functions of 8-bit images [N, rows, columns, channels], float32 numpy: logits
    [N, V], and the features [N, D] before the last layer. ValueError for images of
    another shape than the training images."""

    logits: Callable[[Any], np.ndarray]
    features: Callable[[Any], np.ndarray]


def from_apply(
    apply: Callable[..., Any],
    params: Any,
    *,
    raw: Callable[[np.ndarray], Any],
    shape: Sequence[int],
) -> ImageClassifier:
    """apply(params, raw(images), method=...) returns logits for `__call__`, features
    for `features`. shape: of an image."""

    def function(method: str) -> Callable[[Any], np.ndarray]:
        compiled = jax.jit(partial(apply, method=method))

        def of(images: Any) -> np.ndarray:
            images = np.asarray(images)
            if images.dtype != np.uint8 or images.shape[1:] != tuple(shape):
                raise ValueError(
                    f"expected images uint8 [N, {', '.join(map(str, shape))}], "
                    f"got {images.dtype} {list(images.shape)}"
                )
            return map_batches(lambda part: compiled(params, raw(part)), images)

        return of

    return ImageClassifier(function("__call__"), function("features"))


def map_batches(
    function: Callable[[np.ndarray], Any], rows: np.ndarray, *, batch_size: int = 256
) -> np.ndarray:
    """`function` of all rows in batches of one shape, the last one padded with zeros,
    so that a compiled function compiles once."""
    edges = [(0, -len(rows) % batch_size), *[(0, 0)] * (rows.ndim - 1)]
    batches = np.split(np.pad(rows, edges), max(1, -(-len(rows) // batch_size)))
    return np.concatenate([np.asarray(function(one)) for one in batches])[: len(rows)]
