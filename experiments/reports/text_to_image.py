"""Samples for held-out names, and their retrieval by a trained CLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.reports import clip
from transformer.data.captioned_images import CaptionedImages
from transformer.evaluation import (
    frechet,
    generated_images,
    image_text_encoder,
    retrieval,
)
from transformer.evaluation.baselines import tfidf
from transformer.plots import caption_grid

SHOWN, DRAWS = 30, 2


def of_first_style(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The rows of the first style, that of the held-out images; all without styles."""
    if "style" not in arrays:
        return arrays
    return {name: array[arrays["style"] == 0] for name, array in arrays.items()}


def scores(
    encoder: image_text_encoder.ImageTextEncoder,
    captions: CaptionedImages,
    samples: np.ndarray,
) -> dict[str, float]:
    """Recall of names, samples [draws, N, ...] and the images of the tf-idf baseline by
    each other, in the embedding space of a CLIP, and their Fréchet distance there from
    the training images of the first style."""
    train, held = of_first_style(captions.data.train), captions.data.validation
    names, real = encoder.texts(held["text"]), encoder.images(held["image"])
    # The training image of the nearest name.
    near = tfidf.nearest(list(train["text"]), list(held["text"])).index
    shown = {"samples": samples, "tfidf_nn": train["image"][near][None]}
    similarity = {
        "image_to_text/real": real @ names.T,
        "text_to_image/real": names @ real.T,
    }
    reference = encoder.images(train["image"])
    distance = {"frechet_distance/real": frechet.frechet_distance(real, reference)}
    for name, images in shown.items():
        embeddings = np.stack([encoder.images(one) for one in images])
        similarity[f"image_to_text/{name}"] = embeddings @ names.T
        similarity[f"text_to_image/{name}"] = names @ embeddings.swapaxes(1, 2)
        similarity[f"image_to_image/{name}"] = embeddings @ real.T
        each = [frechet.frechet_distance(one, reference) for one in embeddings]
        distance[f"frechet_distance/{name}"] = float(np.mean(each))
    return distance | {
        f"{name}/{metric}": number
        for name, score in similarity.items()
        for metric, number in retrieval.recall_at_k(retrieval.ranks(score)).items()
    }


def report(
    sample: Callable[..., np.ndarray],
    captions: CaptionedImages,
    scorer: Path | None,
    steps: int,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Recall and Fréchet distance of samples and of the tf-idf baseline where there is
    a scorer, distance to training images, and pairs of true image and sample."""
    train, held = captions.data.train, captions.data.validation
    samples = np.stack(
        [
            sample(params, held["text"], one, steps=steps)
            for one in jax.random.split(key, DRAWS)
        ]
    )
    count = len(held["text"])
    results: dict[str, Any] = {"names": count, "chance": 1 / count}
    encoder = clip.encoder_for(captions, scorer)
    if encoder is not None:
        results |= scores(encoder, captions, samples)
    for name, images in (("samples", samples[0]), ("real", held["image"])):
        distance = generated_images.nn_distance(images, train["image"])
        results[f"nn_distance/{name}"] = distance
    chosen = np.asarray(jax.random.permutation(key, count))[:SHOWN]
    pairs = held["image"][chosen], samples[0][chosen], held["text"][chosen]
    return {"results.json": results, "samples.png": caption_grid.plot_pairs(*pairs)}
