"""Deletion test and gradients, on a linear classifier whose attributions are known."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from transformer.interpretability import deletion, input_gradients

# Three classes, linear in the one feature of each of four patches.
WEIGHTS = np.float32([[4, 0, 0], [0, 3, 0], [0, 0, 2], [0, 1, 0]])
PRIOR = np.float32([0.0, 0.1, 0.2])
BLANK = np.float32([-1])
RAW = np.float32([[0, -1, -1, -1], [-1, 0, -1, 0], [1, 0, 0, -1]])[..., None]


gradient_times_input = jax.jit(
    lambda raw_BLP: input_gradients.gradient_times_input(predict, raw_BLP, BLANK)
)


def predict(raw_BLP: Any) -> Any:
    return (raw_BLP[..., 0] + 1) @ WEIGHTS + PRIOR[None]


def test_the_first_patches_of_the_order_are_erased() -> None:
    order = np.array([[2, 0, 1, 3]] * 3)
    got = deletion.erase(RAW + 5, order, np.array([0, 1, 3]), BLANK)
    got = np.asarray(got)[..., 0]
    expected = [[5, 4, 4, 4], [4, 5, -1, 5], [-1, -1, -1, 4]]
    np.testing.assert_array_equal(got, expected)


def test_with_all_patches_erased_the_prior_remains() -> None:
    order = deletion.descending_order(np.random.default_rng(0).random((3, 4)))
    blank = deletion.erase(RAW, order, np.int32(4), BLANK)
    np.testing.assert_array_equal(
        predict(np.asarray(blank)), np.broadcast_to(PRIOR, (3, 3))
    )


def test_gradient_times_input_is_exact_for_a_linear_model() -> None:
    score = gradient_times_input(RAW)
    expected = [[4, 0, 0, 0], [0, 3, 0, 1], [8, 0, 0, 0]]
    np.testing.assert_array_equal(score, expected)


def test_deletion_curves_separate_a_good_from_a_bad_attribution() -> None:
    score = gradient_times_input(RAW)
    score = np.asarray(score)
    label, scores = np.array([0, 1, 0]), {"good": score, "bad": -score}
    curves = deletion.deletion_curves(
        predict, RAW, label, scores, blank_P=BLANK, points=9
    )
    assert curves.counts == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(curves.accuracy["good"], [1, 1 / 3, 0, 0, 0])
    np.testing.assert_allclose(curves.accuracy["bad"], [1, 1, 1, 1, 0])
    np.testing.assert_allclose(curves.mean_accuracy["bad"], 3.5 / 4)
    flip = deletion.erase_until_flip(predict, RAW, score, BLANK)
    np.testing.assert_array_equal(flip.count, [1, 2, 1])
    np.testing.assert_array_equal(flip.label, [2, 2, 1])
    remaining = np.asarray(flip.remaining_BLP)
    assert (predict(remaining).argmax(-1) == flip.label).all()


def test_baseline_scores_rank_patches_by_their_difference_from_a_blank() -> None:
    scores = deletion.baseline_scores(RAW, BLANK, jax.random.key(0))
    scores = jax.device_get(scores)
    np.testing.assert_array_equal(scores["most_different"][0], [1, 0, 0, 0])
    nonblank = RAW[..., 0] > -1
    assert (scores["random_nonblank"] >= 1)[nonblank].all()
    assert (scores["random_nonblank"] < 1)[~nonblank].all()
