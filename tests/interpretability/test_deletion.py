"""Deletion test and gradients, on a linear classifier whose attributions are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from transformer.interpretability import deletion, input_gradients

# Three classes, linear in the one feature of each of four patches.
WEIGHTS = jnp.asarray([[4.0, 0, 0], [0, 3, 0], [0, 0, 2], [0, 1, 0]])
PRIOR = jnp.asarray([0.0, 0.1, 0.2])
BLANK = jnp.full(1, -1.0)
RAW = jnp.asarray([[0.0, -1, -1, -1], [-1, 0, -1, 0], [1, 0, 0, -1]])[..., None]


def predict(raw_BLP: jax.Array) -> jax.Array:
    return (raw_BLP[..., 0] + 1) @ WEIGHTS + PRIOR[None]


def test_the_first_patches_of_the_order_are_erased() -> None:
    order = jnp.asarray([[2, 0, 1, 3]] * 3)
    got = deletion.erase(RAW + 5, order, jnp.asarray([0, 1, 3]), BLANK)[..., 0]
    expected = [[5, 4, 4, 4], [4, 5, -1, 5], [-1, -1, -1, 4]]
    np.testing.assert_array_equal(got, expected)


def test_with_all_patches_erased_the_prior_remains() -> None:
    order = deletion.descending_order(jax.random.uniform(jax.random.key(0), (3, 4)))
    blank = deletion.erase(RAW, order, jnp.int32(4), BLANK)
    np.testing.assert_array_equal(predict(blank), np.broadcast_to(PRIOR, (3, 3)))


def test_gradient_times_input_is_exact_for_a_linear_model() -> None:
    score = input_gradients.gradient_times_input(predict, RAW, BLANK)
    expected = [[4, 0, 0, 0], [0, 3, 0, 1], [8, 0, 0, 0]]
    np.testing.assert_array_equal(score, expected)


def test_deletion_curves_separate_a_good_from_a_bad_attribution() -> None:
    score = input_gradients.gradient_times_input(predict, RAW, BLANK)
    label, scores = jnp.asarray([0, 1, 0]), {"good": score, "bad": -score}
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
    assert (predict(flip.remaining_BLP).argmax(-1) == flip.label).all()


def test_baseline_scores_rank_patches_by_their_difference_from_a_blank() -> None:
    scores = deletion.baseline_scores(RAW, BLANK, jax.random.key(0))
    np.testing.assert_array_equal(scores["most_different"][0], [1, 0, 0, 0])
    nonblank = np.asarray(RAW[..., 0] > -1)
    assert (np.asarray(scores["random_nonblank"]) >= 1)[nonblank].all()
    assert (np.asarray(scores["random_nonblank"]) < 1)[~nonblank].all()
