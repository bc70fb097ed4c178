"""The contrastive objective, retrieval, and the experiment that matches."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from cases import close

from experiments import clip
from transformer import axes
from transformer.data import captioned_images
from transformer.data.text import tokenizers
from transformer.evaluation import retrieval
from transformer.objectives import contrastive
from transformer.training import update

RNG = np.random.default_rng(0)
TINY: Any = {"depth": 1, "width": 32, "patch": 8, "vocabulary": 300, "seed": 1}


def vectors(seed: int, rows: int = 8) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


symmetric = jax.jit(partial(contrastive.symmetric, temperature=0.1))


def test_the_contrastive_loss_is_two_cross_entropies() -> None:
    """By hand, a row at a time."""
    first, second = vectors(0), vectors(6)
    weight = np.array([1, 1, 1, 1, 1, 1, 0.5, 2], np.float32)
    scores = first.astype(np.float64) @ second.T / 0.1
    expected = 0.0
    for row in range(8):
        for one in (scores[row], scores[:, row]):
            p = np.exp(one - one.max())
            expected -= weight[row] * np.log(p[row] / p.sum()) / 2
    loss = symmetric(first, second, weight)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    first_right, right = (
        weight[scores.argmax(axis) == np.arange(8)].sum() for axis in (0, 1)
    )
    assert first_right != right, "else the axis would not matter"
    assert float(loss.sums["correct"]) == right and float(loss.weight) == weight.sum()
    perfect = symmetric(first, first, np.ones(8, np.float32))
    assert float(perfect.sums["correct"]) == 8


def test_a_row_that_fills_up_the_batch_is_nobody_s_other() -> None:
    first, second = vectors(2), vectors(3)
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    slopes = jax.jit(jax.grad(lambda *given: symmetric(*given).total, argnums=(0, 1)))
    few = symmetric(first[:5], second[:5], weight[:5])
    close(few, symmetric(first, second, weight))
    for slope in slopes(first, second, weight):
        assert np.abs(slope[:5]).max(1).all() and not np.asarray(slope[5:]).any()


def test_the_others_are_those_of_the_batch_on_any_number_of_devices() -> None:
    first, second, weight = vectors(4), vectors(5), np.ones(8, np.float32)
    given = {"first_BD": first, "second_BD": second, "weight_B": weight}
    whole = symmetric(*given.values())
    mesh = axes.mesh()
    with jax.set_mesh(mesh):
        divided = jax.device_put(given, axes.batch_placement(mesh, given))
        close(whole, symmetric(*divided.values()))
    halves = [symmetric(*(a[i : i + 4] for a in given.values())) for i in (0, 4)]
    assert sum(float(half.total) for half in halves) < 0.9 * float(whole.total)


def test_ranks_count_what_is_at_least_as_near() -> None:
    queries = np.array([[1.0, 0], [0, 1], [1, 1]])
    found = np.array([[2.0, 0], [3, 1], [3, 1]])
    assert retrieval.ranks(queries @ found.T).tolist() == [3, 2, 2]
    many = np.stack([queries @ found.T, np.eye(3)])
    assert retrieval.ranks(many).tolist() == [[3, 2, 2], [1, 1, 1]]
    chances = retrieval.recalls(retrieval.ranks(many))["recall@1 / chance"]
    assert chances == pytest.approx(1.5)
    images = RNG.integers(0, 256, (2, 3, 2, 2, 1)).astype(np.uint8)
    apart = np.square(images[0, 1] / 255 - images[1, 2] / 255).sum()
    np.testing.assert_allclose(retrieval.nearness(*images)[1, 2], -apart, rtol=1e-6)
    told = retrieval.recalls(np.array([1, 1, 4, 20]))
    assert told == {
        "recall@1": 0.5,
        "recall@10": 0.75,
        "median rank": 2.5,
        "recall@1 / chance": 2.0,
    }


def test_names_are_written_between_two_ends() -> None:
    symbols = tokenizers.bytes_()
    rows = captioned_images.written(symbols, ["ab", ""], 4)
    end = symbols.end
    assert rows["ids_BL"].tolist() == [[end, 97, 98, 0], [end, 0, 0, 0]]
    assert rows["targets_BL"].tolist() == [[97, 98, end, 0], [end, 0, 0, 0]]
    assert rows["weight_BL"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'abcd': expected at most 4 .* got 5"):
        captioned_images.closed(symbols, ["ab", "abcd"], 4)


def trained(made: Any, steps: int, falls: float) -> Any:
    """The parameters after some steps, whose loss falls to less than `falls`."""
    state = jax.jit(lambda: update.initial(made))()
    advance = jax.jit(lambda *given: update.update(made, *given))
    losses = []
    for step in range(steps):
        batch = made.batch(step, range(made.batch_size))
        state, told = advance(state, batch)
        losses.append(made.report(told.loss)["loss"])
    assert np.mean(losses[-3:]) < falls * np.mean(losses[:3])
    return state.params


def test_matching_lowers_the_loss_and_judges_any_number_of_images() -> None:
    made = clip.experiment(
        **TINY, names_depth=1, batch_size=16, steps=40, dtype="float32"
    )
    params = trained(made, 40, 0.97)
    model = made.show.args[0]
    said, held = model.judge(jax.device_get(params)), model.of.data.validation
    images, names = said.images(held["image"][:5]), said.names(held["text"][:3])
    assert images.shape == (5, 32) and names.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-4)
    again = said.names(held["text"][:1])
    np.testing.assert_allclose(again, names[:1], atol=1e-6)
