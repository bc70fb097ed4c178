"""Bits per pixel of an autoregressive image model beside simple codes, its samples, and
completions of held-out images."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reports import classify_images
from transformer.data import records
from transformer.data.images.gray_levels import QuantizedImages
from transformer.evaluation import generated_images
from transformer.evaluation.baselines import pixel_codes
from transformer.generation import pixel_model
from transformer.models import image_gpt
from transformer.objectives import cross_entropy
from transformer.plots import image_grid

SAMPLES_PER_CLASS = 50
EVALUATION_BATCH_SIZE = 250
MIXTURE_COMPONENTS = (10, 20)
COMPLETIONS = 6


def bits_per_pixel(net: Any, tokenizer: QuantizedImages, params: Any) -> float:
    """Cross-entropy of the held-out images given their classes, in float32."""
    predict = partial(image_gpt.predict, net, pixel_tokens=tokenizer.vocab_size)
    held_out = tokenizer.validation

    @jax.jit
    def nats(params: Any, ids_BL: jax.Array, label_B: jax.Array) -> jax.Array:
        logits_BLV = predict(params, label_B, ids_BL, jnp.zeros(len(ids_BL)))
        ones_BL = jnp.ones(ids_BL.shape)
        return cross_entropy.cross_entropy(logits_BLV, ids_BL, ones_BL).total

    total = 0.0
    for at in range(0, len(held_out["label_B"]), EVALUATION_BATCH_SIZE):
        rows = slice(at, at + EVALUATION_BATCH_SIZE)
        total += float(
            nats(params, held_out["ids_BL"][rows], held_out["label_B"][rows])
        )
    return total / math.log(2) / held_out["ids_BL"].size


def baselines(tokenizer: QuantizedImages) -> dict[str, float]:
    """Bits per pixel of a PNG of all held-out images, and of codes conditioned on the
    class: independent gray levels (of color images three a pixel), and the mixture of
    such images that is best on the held-out ones."""
    train, held_out = tokenizer.train, tokenizer.validation

    def mixture_bits(components: int) -> float:
        return tokenizer.channels * pixel_codes.mixture_bits(
            tokenizer.levels(train["ids_BL"]),
            train["label_B"],
            tokenizer.levels(held_out["ids_BL"]),
            held_out["label_B"],
            gray_levels=tokenizer.gray_levels,
            components=components,
            smoothing=0.1,
        )

    return {
        "bits_per_pixel/png": pixel_codes.png_bits(
            held_out["ids_BL"], tokenizer.palette, tokenizer.side
        ),
        "bits_per_pixel/independent": mixture_bits(1),
        "bits_per_pixel/mixture": min(
            mixture_bits(components) for components in MIXTURE_COMPONENTS
        ),
    }


def completions(
    generator: pixel_model.PixelModel, params: Any, key: jax.Array
) -> np.ndarray:
    """A grid: a held-out image of each class, its upper half, and completions."""
    tokenizer = generator.tokenizer
    held_out = tokenizer.validation
    label, chosen = np.unique(held_out["label_B"], return_index=True)
    ids = held_out["ids_BL"][chosen]
    half = ids.shape[1] // 2
    upper = np.where(np.arange(ids.shape[1]) < half, ids, 0)
    again = np.tile(np.arange(len(chosen)), COMPLETIONS)
    samples = pixel_model.sample(
        generator, params, label[again], key, ids[again, :half]
    )
    real = (tokenizer.decode(rows) for rows in (ids, upper))
    return image_grid.make_grid(np.stack([*real, *np.split(samples, COMPLETIONS)]))


def report(
    net: Any,
    generator: pixel_model.PixelModel,
    data: records.Records,
    classifier: Path | None,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and pictures by file name."""
    tokenizer = generator.tokenizer
    study = generated_images.evaluate_samples(
        classify_images.classifier_for(data, classifier),
        lambda label, steps: pixel_model.sample(generator, params, label, key),
        generated_images.gray_reference_set(tokenizer, per_class=SAMPLES_PER_CLASS),
        steps=(tokenizer.length,),
    )
    completion_key = jax.random.fold_in(key, 1)
    return {
        "results.json": {
            "bits_per_pixel": bits_per_pixel(net, tokenizer, params),
            **baselines(tokenizer),
            **generated_images.results(study),
        },
        "samples.png": image_grid.class_grid(
            study.samples[tokenizer.length], study.reference.label
        ),
        "completions.png": completions(generator, params, completion_key),
    }
