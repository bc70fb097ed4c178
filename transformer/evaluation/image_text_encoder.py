"""A trained dual encoder as functions of 8-bit images and of texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.data.captioned_images import CaptionedImages
from transformer.data.text.documents import Texts
from transformer.evaluation.image_classifier import map_batches
from transformer.models import clip


class ImageTextEncoder(NamedTuple):
    """Embeddings [N, Z] of length 1, float32, of 8-bit images [N, rows, columns, 3] and
    of texts; the inner product is the similarity of an image and a text."""

    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[Texts], np.ndarray]


def from_net(
    net: clip.DualEncoder, captions: CaptionedImages, params: Any
) -> ImageTextEncoder:
    """The encoder of a net with its parameters; captions: its patches and tokenizer."""
    params = jax.tree.map(jnp.asarray, params)
    encode_images = jax.jit(partial(clip.encode_images, net, params))
    encode_texts = jax.jit(partial(clip.encode_texts, net, params))

    def images(images: np.ndarray) -> np.ndarray:
        return map_batches(
            lambda part: encode_images(captions.to_patches(part)), images
        )

    def texts(texts: Texts) -> np.ndarray:
        rows = captions.encoder_rows(texts)
        both_BIL = np.stack([rows["ids_BL"], rows["segment_BL"]], 1)
        return map_batches(lambda part: encode_texts(part[:, 0], part[:, 1]), both_BIL)

    return ImageTextEncoder(images, texts)
