"""Class-conditional images, printed as characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from transformer import checks

SHADES = " .:-=+*#%@"


def ascii_art(images: Sequence[np.ndarray] | np.ndarray) -> str:
    """8-bit images [rows, columns, channels] side by side as characters, by the mean of
    the channels."""
    row = np.concatenate(list(images), axis=1).mean(-1).astype(int)
    shade = row * (len(SHADES) - 1) // 255
    # A character is about twice as high as it is wide.
    return "\n".join("".join(2 * SHADES[level] for level in line) for line in shade)


def parse_digits(digits: str) -> np.ndarray:
    """The classes of `digits`, int64 [N]; ValueError for other characters, or none."""
    if not re.fullmatch("[0-9]+", digits):
        raise ValueError(f"digits: expected digits from 0 to 9, got {digits!r}")
    return np.asarray([int(digit) for digit in digits])


def generate(
    sample: Callable[..., np.ndarray],
    params: Any,
    key: jax.Array,
    *,
    digits: str = "2026",
    sampling_steps: checks.Count = 32,
    sample_seed: checks.Seed = 0,
) -> np.ndarray:
    """Sample digits: print them as characters, and return the 8-bit images.

    sample(params, label [N], key, steps=...) returns the images.

    Args:
        digits: the classes, in a row.
        sampling_steps: of the sampler; fewer are faster and coarser.
        sample_seed: another number gives other images.
    """
    key = jax.random.fold_in(key, sample_seed)
    label = parse_digits(digits)
    images = sample(params, label, key, steps=sampling_steps)
    print(ascii_art(images))
    return images
