"""The Fréchet distance."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.evaluation import frechet

RNG = np.random.default_rng(0)


def test_distance_of_normal_distributions_is_the_formula() -> None:
    """Independent features: |m - m'|^2 + the sum of (s - s')^2."""
    noise = RNG.normal(size=(2, 200_000, 3))
    means, deviations = (
        np.array([[0, 1, 2], [1, 1, 0]]),
        np.array([[1, 2, 3], [2, 2, 1]]),
    )
    one, other = means[:, None] + deviations[:, None] * noise
    expected = np.square(means[0] - means[1]).sum()
    expected += np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(
        frechet.frechet_distance(one, other), expected, rtol=0.02
    )
    assert frechet.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    rotated = frechet.frechet_distance(one @ rotation, other @ rotation)
    assert rotated == pytest.approx(frechet.frechet_distance(one, other), rel=1e-6)
    with pytest.raises(ValueError, match="expected two sets"):
        frechet.frechet_distance(one, other[:, :2])
