"""Retrieval, and the experiment of CLIP."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from experiments import clip
from transformer.data import captioned_images
from transformer.data.text import tokenizers
from transformer.evaluation import retrieval
from transformer.training import update

RNG = np.random.default_rng(0)
TINY: Any = {"depth": 1, "width": 32, "patch": 8, "vocab_size": 300, "seed": 1}


def test_ranks_count_what_is_at_least_as_near() -> None:
    queries = np.array([[1.0, 0], [0, 1], [1, 1]])
    found = np.array([[2.0, 0], [3, 1], [3, 1]])
    assert retrieval.ranks(queries @ found.T).tolist() == [3, 2, 2]
    many = np.stack([queries @ found.T, np.eye(3)])
    assert retrieval.ranks(many).tolist() == [[3, 2, 2], [1, 1, 1]]
    chances = retrieval.recall_at_k(retrieval.ranks(many))["recall@1 / chance"]
    assert chances == pytest.approx(1.5)
    images = RNG.integers(0, 256, (2, 3, 2, 2, 1)).astype(np.uint8)
    apart = np.square(images[0, 1] / 255 - images[1, 2] / 255).sum()
    np.testing.assert_allclose(
        retrieval.negative_squared_distance(*images)[1, 2], -apart, rtol=1e-6
    )
    told = retrieval.recall_at_k(np.array([1, 1, 4, 20]))
    assert told == {
        "recall@1": 0.5,
        "recall@10": 0.75,
        "median rank": 2.5,
        "recall@1 / chance": 2.0,
    }


def test_names_are_written_between_two_ends() -> None:
    symbols = tokenizers.bytes_()
    rows = captioned_images.decoder_rows(symbols, ["ab", ""], 4)
    end = symbols.end
    assert rows["ids_BL"].tolist() == [[end, 97, 98, 0], [end, 0, 0, 0]]
    assert rows["targets_BL"].tolist() == [[97, 98, end, 0], [end, 0, 0, 0]]
    assert rows["weight_BL"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'abcd': expected at most 4 .* got 5"):
        captioned_images.encoder_rows(symbols, ["ab", "abcd"], 4)


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
