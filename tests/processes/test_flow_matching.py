"""Flow matching: points and velocities of the line, and its integration."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import process_sampler
from transformer.processes import flow_matching

KEY = jax.random.key(0)


def test_corruption_gives_a_point_on_the_line_and_its_velocity() -> None:
    x_BLP = jax.random.normal(KEY, (3, 4, 5))
    t_B = jnp.asarray([0.0, 0.25, 1.0])
    x_t, velocity, weight = flow_matching.corrupt(x_BLP, t_B, KEY)
    rest = (1 - t_B)[:, None, None]
    np.testing.assert_allclose(x_t + rest * velocity, x_BLP, atol=1e-5)
    np.testing.assert_allclose(x_t[0] + velocity[0], x_BLP[0], atol=1e-6)
    np.testing.assert_allclose(x_t[2], x_BLP[2], atol=1e-6)
    assert (weight == 1).all() and abs(float(x_t[0].std()) - 1) < 0.5


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_sampling_along_the_velocity_to_a_point_reaches_it(steps: int) -> None:
    x_BLP = 1 + 3 * jax.random.normal(jax.random.key(1), (3, 4, 5))

    def predict(x_t_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        return (x_BLP - x_t_BLP) / (1 - t_B)[:, None, None]

    got = process_sampler.sample(
        flow_matching.process(), predict, KEY, like=x_BLP, steps=steps
    )
    np.testing.assert_allclose(got, x_BLP, atol=1e-4)


def test_the_true_velocity_maps_noise_to_a_normal_distribution() -> None:
    """Of mean m and deviation s: E[data - noise | x_t] is linear in x_t."""
    mean, deviation = 2.0, 0.5
    like = jax.ShapeDtypeStruct((20_000, 1, 1), jnp.float32)

    def predict(x_t_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        t = t_B[:, None, None]
        variance = (1 - t) ** 2 + t**2 * deviation**2
        slope = (t * deviation**2 - (1 - t)) / variance
        return mean + slope * (x_t_BLP - t * mean)

    got = process_sampler.sample(
        flow_matching.process(), predict, KEY, like=like, steps=64
    )
    np.testing.assert_allclose([got.mean(), got.std()], [mean, deviation], rtol=0.02)


def test_logit_normal_times_concentrate_in_the_middle() -> None:
    times = [
        sample_time(KEY, 20_000)
        for sample_time in (
            flow_matching.uniform_times,
            flow_matching.logit_normal_times,
        )
    ]
    assert all(((t > 0) & (t < 1)).all() for t in times)
    middle = [float(((t > 0.25) & (t < 0.75)).mean()) for t in times]
    np.testing.assert_allclose(middle, [0.5, 0.728], atol=0.02)
