"""Autoregressive images; their model is tested in tests/models/test_image_gpt.py."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from experiments import image_gpt
from experiments.reports import image_gpt as report
from transformer.training import update

TINY: Any = {"depth": 1, "width": 32, "batch_size": 16, "dtype": "float32"}


def test_training_lowers_the_loss_and_samples_depend_on_their_key() -> None:
    made: Any = image_gpt.experiment(steps=20, **TINY)
    state = jax.jit(lambda: update.init_state(made))()
    advance = jax.jit(lambda *arguments: update.update(made, *arguments))
    losses = []
    for step in range(made.steps):
        state, metrics = advance(state, made.batch(step, range(16)))
        losses.append(made.metrics(metrics.loss)["loss"])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    first, other = (
        made.generate(state.params, jax.random.key(0), digits="3", sample_seed=seed)
        for seed in (0, 1)
    )
    assert first.shape == (1, 28, 28, 1) and first.dtype == np.uint8
    assert (first != other).any()


def test_uniform_predictions_need_the_bits_of_the_vocabulary() -> None:
    """4 gray levels and 10 classes; 250 images and a smaller last batch."""
    made: Any = image_gpt.experiment(**TINY)
    held_out = {name: a[:260] for name, a in made.tokenizer.validation.items()}
    tokens = made.tokenizer._replace(validation=held_out)
    params = jax.jit(made.init)(jax.random.key(0))
    uniform = {**params, "unembedding_VD": 0 * params["unembedding_VD"]}
    bits = report.bits_per_pixel(made.net, tokens, uniform)
    assert bits == pytest.approx(np.log2(14), rel=1e-5)
