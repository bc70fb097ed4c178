"""Flow matching of images with a diffusion transformer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import dit_flow
from transformer.models import dit
from transformer.training import update

TINY: Any = {"depth": 1, "width": 32, "patch": 7, "dtype": "float32"}


def test_training_lowers_the_loss_and_samples_depend_on_their_key() -> None:
    made = dit_flow.experiment(**TINY, batch_size=32, steps=25)
    assert made.generate is not None
    state = jax.jit(lambda: update.init_state(made))()
    advance = jax.jit(lambda *arguments: update.update(made, *arguments))
    losses = []
    for step in range(made.steps):
        state, metrics = advance(state, made.batch(step, range(32)))
        losses.append(made.metrics(metrics.loss)["loss"])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    first, again, other = (
        made.generate(state.params, jax.random.key(k), digits="337", sampling_steps=2)
        for k in (0, 0, 1)
    )
    assert first.shape == (3, 28, 28, 1) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()


def test_the_velocity_depends_on_class_and_time_and_the_null_label_is_a_class() -> None:
    made = dit_flow.experiment(**TINY)
    params = made.init(jax.random.key(0))
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.key(1), a.shape), params
    )
    raw_BLP = jax.random.normal(jax.random.key(2), (1, 16, 49))
    base, null, later = (
        np.asarray(
            dit.predict(made.net, params, jnp.array([c]), raw_BLP, jnp.array([t]))
        )
        for c, t in ((0, 0.5), (10, 0.5), (0, 0.6))
    )
    assert np.abs(base - null).max() > 1e-3 < np.abs(base - later).max()
