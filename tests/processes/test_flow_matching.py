"""Flow matching: points and velocities of the line, and its integration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import process_sampler
from transformer.processes import flow_matching

KEY = jax.random.key(0)

corrupt = jax.jit(flow_matching.corrupt)


def test_corruption_gives_a_point_on_the_line_and_its_velocity() -> None:
    x_BLP = np.float32(np.random.default_rng(0).normal(size=(3, 4, 5)))
    t_B = np.float32([0.0, 0.25, 1.0])
    x_t, velocity, weight = map(np.asarray, corrupt(x_BLP, t_B, KEY))
    rest = (1 - t_B)[:, None, None]
    np.testing.assert_allclose(x_t + rest * velocity, x_BLP, atol=1e-5)
    np.testing.assert_allclose(x_t[0] + velocity[0], x_BLP[0], atol=1e-6)
    np.testing.assert_allclose(x_t[2], x_BLP[2], atol=1e-6)
    assert (weight == 1).all() and abs(float(x_t[0].std()) - 1) < 0.5


def sample(process: Any, predict: Any, **arguments: Any) -> np.ndarray:
    run = partial(process_sampler.sample, process, predict, **arguments)
    return np.asarray(jax.jit(run)(KEY))


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_sampling_along_the_velocity_to_a_point_reaches_it(steps: int) -> None:
    x_BLP = np.float32(np.random.default_rng(1).normal(1, 3, (3, 4, 5)))

    def predict(x_t_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        return (x_BLP - x_t_BLP) / (1 - t_B)[:, None, None]

    process = flow_matching.process()
    got = sample(process, predict, like=x_BLP, steps=steps)
    np.testing.assert_allclose(got, x_BLP, atol=1e-4)


def test_the_residual_has_unit_variance_and_no_correlation() -> None:
    """Beside the linear prediction of the velocity of normal data."""
    x_BLP = np.float32(np.random.default_rng(0).normal(size=(3, 4000, 5)))
    t_B = np.float32([0.0, 0.25, 0.99])
    x_t, velocity, _ = map(np.asarray, corrupt(x_BLP, t_B, KEY))
    precondition = jax.jit(flow_matching.precondition)
    linear = np.asarray(precondition(np.zeros_like(x_t), x_t, t_B))
    unit = np.asarray(precondition(np.ones_like(x_t), x_t, t_B)) - linear
    residual = (velocity - linear) / unit
    np.testing.assert_allclose(residual.std((1, 2)), 1, atol=0.02)
    np.testing.assert_allclose((residual * x_t).mean((1, 2)), 0, atol=0.03)


MEAN, DEVIATION = 2.0, 0.5
LIKE = jax.ShapeDtypeStruct((20_000, 1, 1), jnp.float32)


def normal_velocity(x_t_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
    """E[data - noise | x_t] of normal data is linear in x_t."""
    t = t_B[:, None, None]
    variance = (1 - t) ** 2 + t**2 * DEVIATION**2
    slope = (t * DEVIATION**2 - (1 - t)) / variance
    return MEAN + slope * (x_t_BLP - t * MEAN)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_true_velocity_maps_noise_to_a_normal_distribution(eta: float) -> None:
    update = partial(flow_matching.ancestral_step, eta=eta)
    process = flow_matching.process(update=update)
    got = sample(process, normal_velocity, like=LIKE, steps=256)
    np.testing.assert_allclose([got.mean(), got.std()], [MEAN, DEVIATION], rtol=0.02)


def test_an_ancestral_step_without_noise_is_a_step_of_euler() -> None:
    x_BLP, velocity_BLP = np.float32(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    ancestral_step = jax.jit(partial(flow_matching.ancestral_step, eta=0.0))
    euler_step = jax.jit(flow_matching.euler_step)
    for t, t_next in ((0.0, 0.25), (0.25, 0.75), (0.75, 1.0), (0.0, 1.0)):
        step = x_BLP, velocity_BLP, t, t_next, KEY
        np.testing.assert_allclose(ancestral_step(*step), euler_step(*step), atol=1e-6)


def test_ancestral_steps_sample_data_given_the_point_where_they_start() -> None:
    """Wherever an error has led to, they sample the data that belong to that point:
    here the normal distribution of Bayes' theorem. Euler's method goes on to one."""
    t, start = 0.4, 3.0

    def samples(update: Callable[..., jax.Array]) -> np.ndarray:
        process = flow_matching.process(update=update)._replace(
            prior=lambda key, like: jnp.full(like.shape, start),
            times=lambda steps: jnp.linspace(t, 1.0, steps + 1),
        )
        return sample(process, normal_velocity, like=LIKE, steps=256)

    variance = (1 - t) ** 2 + t**2 * DEVIATION**2
    mean = MEAN + t * DEVIATION**2 / variance * (start - t * MEAN)
    deviation = DEVIATION * (1 - t) / variance**0.5
    got = samples(flow_matching.ancestral_step)
    np.testing.assert_allclose([got.mean(), got.std()], [mean, deviation], rtol=0.02)
    deterministic = samples(flow_matching.euler_step)
    assert float(deterministic.std()) < 1e-4 < float(deterministic.mean()) - mean


def test_logit_normal_times_concentrate_in_the_middle() -> None:
    times = [
        np.asarray(jax.jit(sample_time, static_argnums=1)(KEY, 20_000))
        for sample_time in (
            flow_matching.uniform_times,
            flow_matching.logit_normal_times,
        )
    ]
    assert all(((t > 0) & (t < 1)).all() for t in times)
    middle = [float(((t > 0.25) & (t < 0.75)).mean()) for t in times]
    np.testing.assert_allclose(middle, [0.5, 0.728], atol=0.02)
