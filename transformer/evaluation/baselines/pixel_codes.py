"""What simple codes need for images of a few grey levels, numpy: pixels independent of
each other, mixtures of such images, and PNG. All of symbols [N, L] below `levels`."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np


class Mixture(NamedTuple):
    """Kinds of images whose pixels are independent, log base e: the share of each kind
    [K] and the chance of each level at each of its pixels [K, L * levels]."""

    log_share: np.ndarray
    log_chance: np.ndarray


def one_hot(symbols: np.ndarray, levels: int) -> np.ndarray:
    """[N, L * levels] float64."""
    return np.eye(levels)[symbols].reshape(len(symbols), -1)


def log_joint(mixture: Mixture, hot: np.ndarray) -> np.ndarray:
    """The log probability of each image together with each kind, [N, K]."""
    return hot @ mixture.log_chance.T + mixture.log_share


def log_probability(mixture: Mixture, hot: np.ndarray) -> np.ndarray:
    """Of each image, [N]."""
    return np.logaddexp.reduce(log_joint(mixture, hot), axis=1)


def fitted(
    symbols: np.ndarray,
    levels: int,
    *,
    kinds: int,
    smoothing: float,
    rounds: int = 30,
    seed: int = 0,
) -> Mixture:
    """A mixture of `kinds` by expectation-maximisation (Dempster et al. 1977), from
    random responsibilities; with one kind, every pixel independent of the others.

    smoothing: counts of every level at every pixel that are added to the data's.
    """
    hot = one_hot(symbols, levels)
    rng = np.random.default_rng(seed)
    belongs = rng.dirichlet(np.full(kinds, 0.1), len(hot))
    mixture = _maximised(hot, belongs, levels, smoothing)
    for _ in range(rounds if kinds > 1 else 0):
        joint = log_joint(mixture, hot)
        belongs = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
        mixture = _maximised(hot, belongs, levels, smoothing)
    return mixture


def _maximised(
    hot: np.ndarray, belongs: np.ndarray, levels: int, smoothing: float
) -> Mixture:
    counts = belongs.T @ hot + smoothing
    by_pixel = counts.reshape(len(counts), -1, levels)
    chance = by_pixel / by_pixel.sum(-1, keepdims=True)
    share = (belongs.sum(0) + smoothing) / (len(hot) + smoothing * len(counts))
    return Mixture(np.log(share), np.log(chance).reshape(counts.shape))


def mixture_bits(
    train: np.ndarray,
    label: np.ndarray,
    held: np.ndarray,
    held_label: np.ndarray,
    *,
    levels: int,
    kinds: int,
    smoothing: float,
) -> float:
    """Bits a pixel of the held-out images, each by the mixture of its class."""
    nats = 0.0
    for c in np.unique(held_label):
        of_class = train[label == c]
        mixture = fitted(of_class, levels, kinds=kinds, smoothing=smoothing)
        hot = one_hot(held[held_label == c], levels)
        nats -= log_probability(mixture, hot).sum()
    return float(nats / np.log(2) / held.size)


def png_bits(symbols: np.ndarray, levels: int, side: int) -> float:
    """Bits a pixel of all images in one PNG, as few bits deep as their levels allow:
    one below the other or in a near square, whichever is smaller."""
    from PIL import Image

    depth = next(bits for bits in (1, 2, 4, 8) if levels <= 2**bits)
    sizes = []
    for across in (1, int(np.sqrt(len(symbols)))):
        down = -(-len(symbols) // across)
        padded = np.zeros((down * across, side, side), np.uint8)
        padded[: len(symbols)] = symbols.reshape(-1, side, side)
        tiles = padded.reshape(down, across, side, side).swapaxes(1, 2)
        picture = Image.fromarray(tiles.reshape(down * side, across * side), "P")
        picture.putpalette(
            [255 * i // (levels - 1) for i in range(levels) for _ in "rgb"]
        )
        file = BytesIO()
        picture.save(file, "png", bits=depth, optimize=True)
        sizes.append(len(file.getvalue()))
    return 8 * min(sizes) / symbols.size
