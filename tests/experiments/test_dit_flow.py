"""Flow matching of images with a diffusion transformer."""

from __future__ import annotations

from typing import Any

import jax
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
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    params = jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape), shapes)
    raw_BLP = np.repeat(rng.normal(size=(1, 16, 49)), 3, 0)
    label_B, t_B = np.array([0, 10, 0]), np.array([0.5, 0.5, 0.6])
    run = jax.jit(lambda params: dit.predict(made.net, params, label_B, raw_BLP, t_B))
    base, null, later = np.asarray(run(params))
    assert np.abs(base - null).max() > 1e-3 < np.abs(base - later).max()
