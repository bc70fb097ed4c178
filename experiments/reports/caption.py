"""Captions of held-out images beside baselines, and attention from words to patches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.data import captioned_images
from transformer.data.captioned_images import CaptionedImages, Texts
from transformer.data.readers import image_files
from transformer.evaluation import retrieval, text_scores
from transformer.generation import captioning, minimum_bayes_risk
from transformer.generation.captioning import Captioner
from transformer.interpretability import alignment
from transformer.models import encoder_decoder
from transformer.plots import caption_grid

SHOWN, HEATMAPS = 24, 3
# Chosen on a tenth of the training images: the probability of the neighbors' names, and
# the mean squared difference of a pixel at which a neighbor's falls by a factor e.
SAMPLES, NEIGHBORS, NEIGHBOR_FRACTION, SCALE = 32, 8, 0.3, 0.0065


def word_heatmaps(
    net: Any, captions: CaptionedImages, params: Any, images: np.ndarray, texts: Texts
) -> list[tuple[list[str], np.ndarray]]:
    """For each text its words, and the cross-attention of each word to each patch
    [words, rows, columns], averaged over heads and layers."""
    # A generated text need not have the fewest tokens, nor the length of a name.
    sizes = map(len, captions.tokenizer.encode_pieces(list(texts)))
    rows = captioned_images.decoder_rows(captions.tokenizer, texts, 1 + max(sizes))
    batch = {"raw_BLP": captions.to_patches(images), **rows}
    apply = partial(encoder_decoder.apply_image_to_text, mutable="intermediates")
    _, variables = jax.jit(partial(apply, net))(params, batch)
    weights_BNLM = alignment.mean_over_heads(variables["intermediates"]["decoder"])
    mean_BLM, ids_BL = np.mean(weights_BNLM, 1), rows["targets_BL"]
    of_row = partial(alignment.word_heatmaps, captions.tokenizer, grid=captions.grid)
    return list(map(of_row, mean_BLM, ids_BL))


def name_images(
    captions: CaptionedImages,
    captioner: Captioner,
    params: Any,
    images: np.ndarray,
    key: jax.Array,
) -> dict[str, list[str]]:
    """A name of each image by each method: minimum Bayes risk over the model's samples
    and the neighbors' names, over either alone, greedy, and the nearest neighbor's."""
    train = captions.data.train
    similarity = retrieval.negative_squared_distance(images, train["image"])
    distance = -similarity / train["image"][0].size
    raw_BLP = captions.to_patches(images)
    samples = captioning.sample_captions(
        captioner, params, raw_BLP, key, samples_per_image=SAMPLES
    )
    by_model = [minimum_bayes_risk.from_samples(texts) for texts in samples]
    by_neighbors = [
        minimum_bayes_risk.from_neighbors(
            train["text"], row, neighbors=NEIGHBORS, scale=SCALE
        )
        for row in distance
    ]
    mix = partial(minimum_bayes_risk.interpolate, fraction=NEIGHBOR_FRACTION)
    decide = partial(
        minimum_bayes_risk.minimum_bayes_risk, similarity=text_scores.sentence_chrf
    )
    return {
        "minimum_bayes_risk": decide(map(mix, by_model, by_neighbors)),
        "samples_only": decide(by_model),
        "neighbors_only": decide(by_neighbors),
        "greedy": captioning.greedy_captions(captioner, params, raw_BLP),
        "nearest_neighbor": [str(train["text"][n]) for n in distance.argmin(1)],
    }


def report(
    net: Any, captions: CaptionedImages, captioner: Captioner, params: Any, key: Any
) -> dict[str, Any]:
    """Scores of each method, of the near and the far half of the images too; names; and
    attention of some correct ones."""
    train, held = captions.data.train, captions.data.validation
    images, reference = held["image"], held["text"]
    distance = -retrieval.negative_squared_distance(images, train["image"]).max(1)
    near = distance <= np.median(distance)
    names = name_images(captions, captioner, params, images, key)
    main = {name: names[name] for name in ("minimum_bayes_risk", "nearest_neighbor")}
    table = text_scores.score_table
    results = {
        "images": len(reference),
        **table(names, reference),
        **table(main, reference, subset=near, name="nearer_half"),
        **table(main, reference, subset=~near, name="farther_half"),
    }
    rows = zip(images, map(str, reference), *main.values(), strict=True)
    ordered = [caption_grid.CaptionComparison(*row) for row in rows]
    shuffled = [ordered[n] for n in jax.random.permutation(key, len(ordered))]
    lines = [
        f"reference         {one.reference}\nmodel             {one.caption}\n"
        f"nearest neighbor  {one.baseline}\n"
        for one in shuffled
    ]
    correct = [one for one in shuffled if one.caption == one.reference]
    longest = sorted(correct, key=lambda one: -one.reference.count(" "))[:HEATMAPS]
    longest = longest or shuffled[:1]
    pixels, texts = [one.image for one in longest], [one.caption for one in longest]
    words = word_heatmaps(net, captions, params, np.stack(pixels), texts)
    return {
        "results.json": results,
        "captions.txt": "\n".join(lines),
        "captions.png": caption_grid.plot_captions(shuffled[:SHOWN]),
        "attention.png": caption_grid.plot_word_heatmaps(pixels, words),
    }


def name_image(
    captions: CaptionedImages,
    captioner: Captioner,
    params: Any,
    key: jax.Array,
    image: Path,
) -> str:
    """The name of the image in a file, and of the nearest training image."""
    shape = captions.data.train["image"].shape[1:]
    pixels = image_files.resized_image(image, shape, crop=captions.is_cropped)
    names = name_images(captions, captioner, params, pixels[None], key)
    (name,), (neighbor,) = names["minimum_bayes_risk"], names["nearest_neighbor"]
    return f"{name} (nearest in training: {neighbor})"
