"""Samples of masked generation, and their quality by sampling steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.reports import classify_images
from transformer.data import records
from transformer.data.images.gray_levels import QuantizedImages
from transformer.evaluation import generated_images
from transformer.plots import sample_quality

SAMPLING_STEPS = (1, 2, 4, 8, 16, 32)
SAMPLES_PER_CLASS = 50


def report(
    sample: Callable[..., np.ndarray],
    tokenizer: QuantizedImages,
    data: records.Records,
    classifier: Path | None,
    guidance: float,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and figures by file name."""
    study = generated_images.evaluate_samples(
        classify_images.classifier_for(data, classifier),
        lambda label, steps: sample(params, label, key, steps=steps),
        generated_images.gray_reference_set(tokenizer, per_class=SAMPLES_PER_CLASS),
        steps=SAMPLING_STEPS,
    )
    figures = sample_quality.figures(study, name=f"guidance {guidance:g}")
    return {"results.json": generated_images.results(study), **figures}
