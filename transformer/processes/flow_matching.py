"""Flow matching: from noise to data along straight lines.

x_t = (1 - t) noise + t data, and the model predicts the velocity data - noise (Lipman
et al. 2022, arXiv 2210.02747, with the optimal-transport path of section 4.1; rectified
flow, Liu et al. 2022, arXiv 2209.03003). Generation integrates dx = v(x, t) dt, or a
stochastic equation with the same distribution of x at each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.process import NoisedExample, Process


def uniform_times(key: jax.Array, rows: int) -> jax.Array:
    """Times (B,) uniform in [0, 1)."""
    return jax.random.uniform(key, (rows,))


def logit_normal_times(key: jax.Array, rows: int) -> jax.Array:
    """Times (B,) more often near 1/2, where the velocity is hardest to predict (Esser
    et al. 2024, arXiv 2403.03206, section 3.1)."""
    return jax.nn.sigmoid(jax.random.normal(key, (rows,)))


def corrupt(x_BLP: jax.Array, t_B: jax.Array, key: jax.Array) -> NoisedExample:
    """The point at t on the line from fresh noise to x, and that line's velocity."""
    noise_BLP = jax.random.normal(key, x_BLP.shape, x_BLP.dtype)
    t_BLP = t_B[:, None, None]
    x_t_BLP = (1 - t_BLP) * noise_BLP + t_BLP * x_BLP
    return NoisedExample(x_t_BLP, x_BLP - noise_BLP, jnp.ones(x_BLP.shape[:2]))


def precondition(
    residual_BLP: jax.Array, x_BLP: jax.Array, t_B: jax.Array
) -> jax.Array:
    """The velocity at x at time t: its best linear prediction from x, if the data have
    mean 0 and standard deviation 1, and what a model adds to it, in units of the
    standard deviation of that (Karras et al. 2022, arXiv 2206.00364, section 5)."""
    t_BLP = t_B[:, None, None]
    variance_BLP = t_BLP**2 + (1 - t_BLP) ** 2
    linear_BLP = (2 * t_BLP - 1) / variance_BLP * x_BLP
    return linear_BLP + residual_BLP / jnp.sqrt(variance_BLP)


def gaussian_noise(key: jax.Array, like: Any) -> jax.Array:
    """Standard normal noise of the shape and dtype of `like`."""
    return jax.random.normal(key, like.shape, like.dtype)


def euler_step(
    x_BLP: jax.Array, velocity_BLP: jax.Array, t: Any, t_next: Any, key: jax.Array
) -> jax.Array:
    """One step of Euler's method from t to t_next."""
    return x_BLP + (t_next - t) * velocity_BLP


def ancestral_step(
    x_BLP: jax.Array,
    velocity_BLP: jax.Array,
    t: Any,
    t_next: Any,
    key: jax.Array,
    *,
    eta: float = 1.0,
) -> jax.Array:
    """One step from t to t_next that replaces part of the noise by fresh noise, so that
    errors of earlier steps are forgotten (DDIM, Song et al. 2020, arXiv 2010.02502,
    equation 16, with a = t^2 / (t^2 + (1 - t)^2)).

    eta: 0 is `euler_step`, 1 replaces as much as the reverse Markov chain of DDPM.
    """
    data_BLP = x_BLP + (1 - t) * velocity_BLP
    noise_BLP = x_BLP - t * velocity_BLP
    # The signal-to-noise ratio at t relative to that at t_next.
    ratio = t * (1 - t_next) / (t_next * (1 - t))
    fresh = eta * jnp.sqrt(1 - ratio**2)
    fresh_BLP = jax.random.normal(key, x_BLP.shape, x_BLP.dtype)
    noise_BLP = jnp.sqrt(1 - fresh**2) * noise_BLP + fresh * fresh_BLP
    return t_next * data_BLP + (1 - t_next) * noise_BLP


def times(steps: int) -> jax.Array:
    """0, ..., 1 in equal steps, float32 (steps + 1,)."""
    return jnp.linspace(0.0, 1.0, steps + 1)


def process(
    *,
    sample_time: Callable[[jax.Array, int], jax.Array] = uniform_times,
    update: Callable[..., jax.Array] = euler_step,
) -> Process:
    """Flow matching of raw patches x (B, L, P) of standard deviation about 1; `update`
    is `euler_step` or `ancestral_step`."""
    return Process(sample_time, corrupt, gaussian_noise, update, times)
