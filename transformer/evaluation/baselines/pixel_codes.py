"""Bits per pixel of simple codes for quantized images: independent pixels, mixtures of
such images, and PNG. Images are rows of gray levels [N, L], int below `gray_levels`."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """A mixture of K components with independent pixels: log weights [K], and log
    probabilities of each level of each pixel [K, L * gray_levels], base e."""

    log_weight: np.ndarray
    log_p: np.ndarray


def one_hot(ids: np.ndarray, gray_levels: int) -> np.ndarray:
    """Gray levels [N, L] as indicators [N, L * gray_levels], float64."""
    return np.eye(gray_levels)[ids].reshape(len(ids), -1)


def log_joint(mixture: Mixture, hot: np.ndarray) -> np.ndarray:
    """The joint log-probability of each image and each component, [N, K]."""
    return hot @ mixture.log_p.T + mixture.log_weight


def log_probability(mixture: Mixture, hot: np.ndarray) -> np.ndarray:
    """The log-probability of each image, [N]."""
    return np.logaddexp.reduce(log_joint(mixture, hot), axis=1)


def fit_mixture(
    ids: np.ndarray,
    gray_levels: int,
    *,
    components: int,
    smoothing: float,
    iterations: int = 30,
    seed: int = 0,
) -> Mixture:
    """A mixture by expectation-maximization (Dempster et al. 1977), from random
    responsibilities; one component is independent pixels.

    smoothing: added to the count of every level of every pixel.
    """
    hot = one_hot(ids, gray_levels)
    rng = np.random.default_rng(seed)
    responsibility = rng.dirichlet(np.full(components, 0.1), len(hot))
    mixture = _maximize(hot, responsibility, gray_levels, smoothing)
    for _ in range(iterations if components > 1 else 0):
        joint = log_joint(mixture, hot)
        evidence = np.logaddexp.reduce(joint, axis=1, keepdims=True)
        mixture = _maximize(hot, np.exp(joint - evidence), gray_levels, smoothing)
    return mixture


def _maximize(
    hot: np.ndarray, responsibility: np.ndarray, gray_levels: int, smoothing: float
) -> Mixture:
    counts = responsibility.T @ hot + smoothing
    by_pixel = counts.reshape(len(counts), -1, gray_levels)
    p = by_pixel / by_pixel.sum(-1, keepdims=True)
    total = len(hot) + smoothing * len(counts)
    weight = (responsibility.sum(0) + smoothing) / total
    return Mixture(np.log(weight), np.log(p).reshape(counts.shape))


def mixture_bits(
    train: np.ndarray,
    label: np.ndarray,
    held_out: np.ndarray,
    held_out_label: np.ndarray,
    *,
    gray_levels: int,
    components: int,
    smoothing: float,
) -> float:
    """Bits per pixel of the held-out images, each by the mixture of its class."""
    nats = 0.0
    for c in np.unique(held_out_label):
        mixture = fit_mixture(
            train[label == c], gray_levels, components=components, smoothing=smoothing
        )
        hot = one_hot(held_out[held_out_label == c], gray_levels)
        nats -= log_probability(mixture, hot).sum()
    return float(nats / np.log(2) / held_out.size)


def png_bits(ids: np.ndarray, palette: np.ndarray, side: int) -> float:
    """Bits per pixel of all images in one PNG of the smallest bit depth: in one column
    or in a near square, whichever is smaller. ids: below V. palette: the 8-bit color
    [V, 1 or 3] of each."""
    from PIL import Image

    colors = np.broadcast_to(palette, (len(palette), 3))
    depth = next((bits for bits in (1, 2, 4, 8) if len(colors) <= 2**bits), None)
    sizes = []
    for across in (1, int(np.sqrt(len(ids)))):
        down = -(-len(ids) // across)
        padded = np.zeros((down * across, side, side), np.int32)
        padded[: len(ids)] = ids.reshape(-1, side, side)
        tiles = padded.reshape(down, across, side, side).swapaxes(1, 2)
        sheet = tiles.reshape(down * side, across * side)
        file = BytesIO()
        if depth is None:
            Image.fromarray(colors[sheet]).save(file, "png", optimize=True)
        else:
            picture = Image.fromarray(sheet.astype(np.uint8), "P")
            picture.putpalette(colors.tobytes())
            picture.save(file, "png", bits=depth, optimize=True)
        sizes.append(len(file.getvalue()))
    return 8 * min(sizes) / ids.size
