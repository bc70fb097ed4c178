"""Probabilities of classes: of texts and images by a classifier, and of images by the
texts of a dual encoder (zero-shot, Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer.interchange import image_rows, text_rows
from transformer.interchange.architectures.encoders import ImageSizes
from transformer.interchange.text_rows import TextRows
from transformer.models import clip
from transformer.network import masks

IMAGES_PER_BATCH = 16


def classify_texts(
    net: Any, params: Any, rows: TextRows, texts: Sequence[str]
) -> np.ndarray:
    """Probabilities [N, V] of the classes of a classifier of (ids, tokens)."""

    @jax.jit
    def apply(params: Any, ids_BL: jax.Array, segment_BL: jax.Array) -> jax.Array:
        index_BL = jnp.arange(ids_BL.shape[1], dtype=jnp.int32)[None]
        tokens = masks.packed(segment_BL, index_BL)
        logits_BV: Any = net.apply({"params": params}, ids_BL, tokens)
        return jax.nn.softmax(logits_BV)

    return text_rows.map_batches(rows, texts, lambda *batch: apply(params, *batch))


def map_images(
    net: Any, params: Any, raw_NLP: np.ndarray, *, extra: int, method: str | None = None
) -> np.ndarray:
    """What `method` of a net of (raw patches, tokens) gives for images, float32; extra:
    tokens before the patches, such as a class token."""
    tokens = masks.single_document(raw_NLP.shape[1] + extra)

    @jax.jit
    def apply(params: Any, raw_BLP: jax.Array) -> Any:
        return net.apply({"params": params}, raw_BLP, tokens, method=method)

    count, found = len(raw_NLP), []
    size = min(count, IMAGES_PER_BATCH)
    for start in range(0, count, size):
        raw_BLP = raw_NLP[start : start + size]
        short = size - len(raw_BLP)
        raw_BLP = np.pad(raw_BLP, [(0, short), (0, 0), (0, 0)])
        found.append(np.asarray(apply(params, raw_BLP), np.float32)[: size - short])
    return np.concatenate(found)


def classify_images(
    net: Any, params: Any, raw_NLP: np.ndarray, *, extra: int
) -> np.ndarray:
    """Probabilities [N, V] of the classes of a classifier of images."""
    logits_NV = map_images(net, params, raw_NLP, extra=extra)
    return np.asarray(jax.nn.softmax(logits_NV))


def match_images(
    net: clip.ScoredDualEncoder,
    params: Any,
    raw_NLP: np.ndarray,
    rows: TextRows,
    texts: Sequence[str],
    *,
    is_clip: bool,
) -> np.ndarray:
    """Probabilities [N, C] of texts for images: CLIP's are of one among them, SigLIP's
    of each by itself."""
    image_NZ = map_images(
        net, params, raw_NLP, extra=int(is_clip), method="encode_image"
    )

    @jax.jit
    def encode(params: Any, ids_BL: jax.Array, segment_BL: jax.Array) -> jax.Array:
        return clip.encode_texts(net, params, ids_BL, segment_BL)

    def apply(*batch: Any) -> Any:
        return encode(params, *batch)

    text_CZ = text_rows.map_batches(rows, texts, apply, whole=not is_clip)
    scores_NC: Any = net.apply({"params": params}, image_NZ, text_CZ, method="scores")
    to_probability = jax.nn.softmax if is_clip else jax.nn.sigmoid
    return np.asarray(to_probability(scores_NC))


def read_images(folder: Path, image: ImageSizes, paths: Sequence[Path]) -> np.ndarray:
    """Raw patches [N, L, P] of image files, prepared as the folder says."""
    how = image_rows.read_preprocessing(folder, image)
    return image_rows.read_patches(paths, image, how)
