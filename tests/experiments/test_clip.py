"""Retrieval, and the experiment of CLIP."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments import clip
from transformer.training import update

RNG = np.random.default_rng(0)
TINY: Any = {"depth": 1, "width": 32, "patch": 8, "vocab_size": 300, "seed": 1}


def trained(made: Any, steps: int, falls: float) -> Any:
    """The parameters after some steps, whose loss falls to less than `falls`."""
    state = jax.jit(lambda: update.init_state(made))()
    advance = jax.jit(lambda *given: update.update(made, *given))
    losses = []
    for step in range(steps):
        batch = made.batch(step, range(made.batch_size))
        state, told = advance(state, batch)
        losses.append(made.metrics(told.loss)["loss"])
    assert np.mean(losses[-3:]) < falls * np.mean(losses[:3])
    return state.params


def test_matching_lowers_the_loss_and_judges_any_number_of_images() -> None:
    made = clip.experiment(
        **TINY, names_depth=1, batch_size=16, steps=40, dtype="float32"
    )
    params = trained(made, 40, 0.97)
    model = made.report.args[0]
    said, held = model.judge(jax.device_get(params)), model.of.data.validation
    images, names = said.images(held["image"][:5]), said.names(held["text"][:3])
    assert images.shape == (5, 32) and names.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-4)
    again = said.names(held["text"][:1])
    np.testing.assert_allclose(again, names[:1], atol=1e-6)
