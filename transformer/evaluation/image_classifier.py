"""A trained classifier of images as a judge of others, drawn ones too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.evaluation.baselines import linear_probe


class Judge(NamedTuple):
    """What a classifier says of 8-bit images [N, rows, columns, channels], as float32
    numpy: logits [N, V], and the features [N, D] that they are read from. Both raise
    ValueError for images of another shape than it was trained on."""

    logits: Callable[[Any], np.ndarray]
    features: Callable[[Any], np.ndarray]


def judge(
    apply: Callable[..., Any],
    params: Any,
    *,
    raw: Callable[[np.ndarray], Any],
    shape: Sequence[int],
) -> Judge:
    """apply(params, raw patches, method=...) gives the logits (`__call__`) or features
    (`features`) of raw(images); shape: of an image."""

    def said(method: str) -> Callable[[Any], np.ndarray]:
        compiled = jax.jit(partial(apply, method=method))

        def of(images: Any) -> np.ndarray:
            images = np.asarray(images)
            if images.dtype != np.uint8 or images.shape[1:] != tuple(shape):
                raise ValueError(
                    f"expected images uint8 [N, {', '.join(map(str, shape))}], "
                    f"got {images.dtype} {list(images.shape)}"
                )
            return linear_probe.in_parts(
                lambda part: compiled(params, raw(part)), images
            )

        return of

    return Judge(said("__call__"), said("features"))
