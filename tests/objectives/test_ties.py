"""Ties count as `argmax` has them, in every metric that ranks: equal scores are right
as often as chance."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import language_model
from transformer.evaluation import retrieval
from transformer.objectives import contrastive, cross_entropy, recall
from transformer.objectives.loss import Loss

V = 8


def test_best_and_rank_are_those_of_argmax_and_a_stable_sort() -> None:
    """Few distinct scores, so that most rows have ties; some NaN."""
    rng = np.random.default_rng(0)
    score_BV = rng.integers(0, 4, (500, V)).astype(np.float64)
    index_B = rng.integers(0, V, 500)
    score_BV[::50, 3] = np.nan
    own_B = score_BV[np.arange(500), index_B]
    order_BV = np.argsort(-np.nan_to_num(score_BV, nan=np.inf), axis=1, kind="stable")
    rank_B = 1 + (order_BV == index_B[:, None]).argmax(1)
    rank_B = np.where(np.isnan(own_B), V, rank_B)
    best_B = (score_BV.argmax(1) == index_B) & ~np.isnan(own_B)
    arguments = score_BV, own_B, np.asarray(index_B, np.int32)
    for function, expected_B in (
        (cross_entropy.is_best, best_B),
        (cross_entropy.ranks, rank_B),
    ):
        np.testing.assert_array_equal(function(*arguments), expected_B)
        np.testing.assert_array_equal(jax.jit(function)(*arguments), expected_B)


def fused(logits_BLV: Any, *targets: Any) -> Loss:
    """Features whose products with the unembedding are the logits."""
    x_BLD = jnp.concatenate([logits_BLV, jnp.zeros_like(logits_BLV)], -1)
    w_VD = jnp.concatenate([jnp.eye(V), jnp.zeros((V, V))], -1)
    return cross_entropy.fused_cross_entropy(x_BLD, w_VD, *targets)


OBJECTIVES = {
    "cross-entropy": cross_entropy.cross_entropy,
    "fused": fused,
    "label smoothing": cross_entropy.label_smoothing(0.1),
    "z-loss": cross_entropy.z_loss(cross_entropy.cross_entropy, 0.1),
    "classification": lambda logits_BLV, *targets: cross_entropy.classification(
        logits_BLV[0], *(a[0] for a in targets)
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("tied", [V, 3])
def test_accuracy_of_equal_logits_is_chance(objective: Any, tied: int) -> None:
    """Each of the `tied` most likely labels once, as the target: one is right."""
    logits_V = np.where(np.arange(V) < tied, 2.0, -1.0).astype(np.float32)
    logits_BLV = np.broadcast_to(logits_V, (1, tied, V))
    targets_BL = np.arange(tied)[None]
    loss = jax.jit(objective)(logits_BLV, targets_BL, np.ones((1, tied), np.float32))
    assert cross_entropy.token_metrics(loss)["accuracy"] == pytest.approx(1 / tied)


def test_recall_of_equal_scores_is_chance() -> None:
    """Collapsed embeddings, and the answers of a model that knows nothing."""
    x_BD = np.full((V, 4), 0.5)
    clip_loss = jax.jit(partial(contrastive.clip_loss, temperature=0.1))
    loss = clip_loss(x_BD, x_BD, np.ones(V))
    assert contrastive.pair_metrics(loss)["accuracy"] == pytest.approx(1 / V)
    rank = retrieval.ranks(np.ones((20, 20)))
    assert sorted(rank) == [*range(1, 21)]
    assert retrieval.recall_at_k(rank)["recall_at_1_over_chance"] == pytest.approx(1)
    batch = {
        "targets_BL": np.arange(V)[None],
        "weight_B": np.ones(1),
        "question_BL": np.ones((1, V)),
        "text_weight_BL": np.zeros((1, V)),
    }
    equal = {"one": np.zeros((1, V, V))}
    sums = jax.jit(recall.recall_loss)(equal, batch, np.ones(V)).sums
    assert sums["correct/one"] == 1


def test_an_untrained_model_is_right_by_chance() -> None:
    """All logits are 0 at step 1: only the first token is ever right."""
    sizes = {"depth": 1, "tokenizer": "bytes", "sequence_length": 32, "steps": 1}
    made = language_model.experiment(**sizes, dtype="float32")
    batch = made.batch(0, range(8))
    params = jax.jit(made.init)(jax.random.key(0))
    loss = jax.jit(made.loss)(params, batch, jax.random.key(0))
    counted = batch["targets_BL"][batch["weight_BL"] > 0]
    expected = float((counted == 0).mean())
    assert made.metrics(jax.device_get(loss))["accuracy"] == expected < 0.1
