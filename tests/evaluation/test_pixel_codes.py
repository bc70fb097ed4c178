"""Bits per pixel of simple codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from transformer.evaluation.baselines import pixel_codes

RNG = np.random.default_rng(0)


def test_a_mixture_sums_to_one_and_every_round_fits_better() -> None:
    prototypes = RNG.integers(0, 3, (2, 4))
    ids = prototypes[RNG.integers(0, 2, 300)]
    noise = RNG.random(ids.shape) < 0.2
    ids = np.where(noise, RNG.integers(0, 3, ids.shape), ids)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    hot, all_hot = pixel_codes.one_hot(ids, 3), pixel_codes.one_hot(every, 3)
    nats = []
    for iterations in (1, 2, 4, 30):
        mixture = pixel_codes.fit_mixture(
            ids, 3, components=2, smoothing=0.01, iterations=iterations
        )
        total = np.exp(pixel_codes.log_probability(mixture, all_hot)).sum()
        assert total == pytest.approx(1, abs=1e-9)
        nats.append(-pixel_codes.log_probability(mixture, hot).mean())
    assert nats == sorted(nats, reverse=True)
    alone = pixel_codes.fit_mixture(ids, 3, components=1, smoothing=0.01)
    assert -pixel_codes.log_probability(alone, hot).mean() > nats[-1] + 0.3
    counts = np.eye(3)[ids].sum(0) + 0.01
    by_hand = np.log(counts / counts.sum(1, keepdims=True)).ravel()
    np.testing.assert_allclose(alone.log_p[0], by_hand)


def test_each_class_has_its_own_mixture() -> None:
    """Classes that are each one image cost nothing, once the class is known."""
    label = np.repeat([0, 1], 200)
    ids = RNG.integers(0, 4, (2, 9))[label]
    arrays = ids, label, ids[150:250], label[150:250]
    cost = pixel_codes.mixture_bits(
        *arrays, gray_levels=4, components=1, smoothing=1e-6
    )
    assert 0 <= cost < 1e-6


def test_a_png_takes_two_bits_of_noise_and_none_of_zeros() -> None:
    noise = RNG.integers(0, 4, (400, 49))
    grays = np.array([0, 85, 170, 255], np.uint8)[:, None]
    assert 2 <= pixel_codes.png_bits(noise, grays, 7) < 2.6
    assert pixel_codes.png_bits(np.zeros_like(noise), grays, 7) < 0.1


@pytest.mark.parametrize("colors", [64, 512])
def test_a_png_in_color_takes_the_bits_of_noise(colors: int) -> None:
    """512 are more than a palette has."""
    noise = RNG.integers(0, colors, (400, 49))
    palette = RNG.integers(0, 256, (colors, 3)).astype(np.uint8)
    bits = pixel_codes.png_bits(noise, palette, 7)
    assert np.log2(colors) <= bits < 25
    assert pixel_codes.png_bits(np.zeros_like(noise), palette, 7) < 0.2
