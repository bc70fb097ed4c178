"""Images sampled for texts, written to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer import checks


def generate(
    sample: Callable[..., np.ndarray],
    params: Any,
    key: jax.Array,
    *,
    text: checks.Prompt = "red cat",
    sampling_steps: checks.Count = 32,
    sample_seed: checks.Seed = 0,
    output: Path = Path("sample.png"),
) -> np.ndarray:
    """Sample images for texts: write them to a file, and return them, 8-bit.

    sample(params, texts, key, steps=...) returns the images. ValueError for a text that
    is not UTF-8.

    Args:
        text: what to draw; several texts are divided by a semicolon.
        sampling_steps: of the sampler; fewer are faster and coarser.
        sample_seed: another number gives other images.
        output: the image's file.
    """
    from PIL import Image

    texts = [part.strip() for part in checks.utf8("text", text).split(";")]
    key = jax.random.fold_in(key, sample_seed)
    images = sample(params, texts, key, steps=sampling_steps)
    wide = np.concatenate(list(images), axis=1)
    Image.fromarray(wide.repeat(4, axis=0).repeat(4, axis=1)).save(output)
    print(f"{', '.join(texts)}: see {output}")
    return images
