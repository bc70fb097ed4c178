"""Masked generation of images in a few gray levels."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments import maskgit
from transformer.training import update


def test_training_lowers_the_loss_and_a_sample_depends_on_its_own_class() -> None:
    made: Any = maskgit.experiment(
        steps=20, temperature=2.0, depth=1, width=32, batch_size=16, dtype="float32"
    )
    assert made.tokenizer.grid == (7, 7) and made.tokenizer.vocab_size == 256
    state = jax.jit(lambda: update.init_state(made))()
    advance = jax.jit(lambda *arguments: update.update(made, *arguments))
    losses = []
    for step in range(made.steps):
        state, metrics = advance(state, made.batch(step, range(16)))
        losses.append(made.metrics(metrics.loss)["loss"])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])

    def generate(seed: int, digits: str) -> np.ndarray:
        key = jax.random.key(seed)
        return made.generate(state.params, key, digits=digits, sampling_steps=2)

    first, again, other = (generate(seed, "337") for seed in (0, 0, 1))
    assert first.shape == (3, 28, 28, 1) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()
    changed = generate(0, "387") != first
    assert changed.any((1, 2, 3)).tolist() == [False, True, False]
