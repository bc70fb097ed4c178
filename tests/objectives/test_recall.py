"""The loss of a text with questions in it."""

from functools import partial

import jax
import numpy as np
import pytest

from transformer.objectives import recall
from transformer.objectives.cross_entropy import cross_entropy

BATCH = {
    "targets_BL": np.array([[0, 1, 4], [2, 3, 4], [1, 1, 1]], np.int32),
    "text_weight_BL": np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], np.float32),
    "question_BL": np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32),
    "weight_B": np.array([1, 1, 0], np.float32),
}


def test_recall_loss_weighs_text_and_answers_of_each_model() -> None:
    """A row of weight 0 does not count, and a needle's tokens have no bytes."""
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(size=(3, 3, 5)) for name in "ab"}
    logits["b"][:2, 2, 4] += 20.0
    bytes_V = np.array([3, 1, 2, 5, 0])
    run = jax.jit(partial(recall.recall_loss, answer_weight=7.0))
    loss = run(logits, BATCH, bytes_V)
    rows = BATCH["weight_B"][:, None]
    of_model = jax.jit(cross_entropy)
    text, question = (
        {
            name: of_model(a, BATCH["targets_BL"], BATCH[key] * rows)
            for name, a in logits.items()
        }
        for key in ("text_weight_BL", "question_BL")
    )
    expected = sum(float(text[n].total) + 7.0 * float(question[n].total) for n in "ab")
    assert float(loss.total) == pytest.approx(expected, rel=1e-6)
    assert float(loss.weight) == 2 * 4
    metrics = recall.recall_metrics(loss)
    assert metrics["recall_accuracy/b"] == 1
    bits = float(text["a"].total) / np.log(2) / (3 + 1 + 2 + 5)
    assert metrics["bits_per_byte/a"] == pytest.approx(bits, rel=1e-6)
