"""Masked language modeling and span corruption: training, evaluation, filling gaps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import short_training

from experiments import mlm, span_corruption
from experiments.reports import mlm as report
from transformer.data.text import windows
from transformer.generation import fill_in

RNG = np.random.default_rng(0)
LENGTH = 32
TINY: Any = {
    "depth": 1,
    "width": 64,
    "sequence_length": LENGTH,
    "batch_size": 8,
    "vocab_size": 300,
    "steps": 24,
    "dtype": "float32",
}


@pytest.mark.parametrize("file", [mlm, span_corruption])
def test_training_lowers_the_loss_and_gaps_are_filled(
    file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation is on 15 % of each of 64 rows: 5 of 32 tokens."""
    experiment = file.experiment(**TINY)
    params, losses = trained = short_training.train(experiment)
    assert len(losses) == 24 and trained.ratio(4) < 0.9
    held_out = experiment.evaluations["validation"]
    batch, key = held_out.batch(0, range(64)), jax.random.key(0)
    loss = jax.jit(held_out.loss)(params, batch, key)
    assert float(loss.sums["tokens"]) == 64 * 5
    assert 0 < held_out.metrics(loss)["loss"] < 6
    prompt = "It is a * universally acknowledged, that a * must be."
    assert experiment.generate is not None
    text = experiment.generate(params, key, prompt=prompt)
    assert capsys.readouterr().out == text + "\n"
    start, middle, end = prompt.replace(" *", "*").split("*")
    assert text.startswith(start) and middle in text and text.endswith(end)


def test_masked_tokens_and_the_pieces_between_them_are_the_text() -> None:
    ids = RNG.integers(0, 99, LENGTH)
    pieces, removed = report.mask_tokens(ids, RNG)
    assert len(removed) == len(pieces) - 1 == 5
    joined = fill_in.join_pieces(pieces, [int(part[0]) for part in removed])
    np.testing.assert_array_equal(joined, ids)
    assert all(len(part) == 1 for part in removed)


def test_documents_too_short_for_a_baseline_leave_it_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a printed line each, and not with an error after training."""
    texts = windows.from_arrays([RNG.integers(0, 9, 3) for _ in range(40)])
    ends = texts._replace(starts=texts.stops - 1)
    parts = windows.TextSplits(texts._replace(stops=ends.starts), texts, ends, ends)
    assert report.ngram_accuracies(parts, vocab_size=9) == {}
    params: Any = {"trained": {}}
    assert report.probe_accuracies(lambda *_: pytest.fail(), params, parts) == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "no n-gram baselines: expected texts of 5 tokens or more",
        "no linear probe: expected 2 to 64 texts with tails of 128 tokens, got 0 of 80",
    ]
    known = report.first_tokens(map(np.zeros, (3, 5, 6, 7)), least=4, most=10)
    assert [len(ids) for ids in known] == [5, 6]


@pytest.mark.parametrize("offset", [-2, -1, 1, 2])
def test_an_isolated_masked_token_has_its_four_neighbors(
    offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows of one token, a model that copies a neighbor is always right."""
    experiment = mlm.experiment(**TINY)
    vocab_size = experiment.net.vocab_size

    def copy(net: Any, weights: Any, ids_BL: jax.Array, segment_BL: jax.Array) -> Any:
        return jax.nn.one_hot(jnp.roll(ids_BL, -offset, 1), vocab_size), eye_VD

    def constant(step: int, rows: Any) -> dict[str, np.ndarray]:
        ids_B1 = np.arange(len(rows), dtype=np.int32)[:, None]
        ids_BL = np.repeat(ids_B1, 2 * report.SPACING, axis=1)
        ones_BL = np.ones_like(ids_BL)
        weight_B = np.ones(len(rows), np.float32)
        return {"ids_BL": ids_BL, "segment_BL": ones_BL, "weight_B": weight_B}

    eye_VD = jnp.eye(vocab_size)
    monkeypatch.setattr(report.bert, "apply", copy)
    held_out = experiment.evaluations["validation"]._replace(batch=constant, batches=1)
    made = experiment._replace(evaluations={"validation": held_out})
    assert report.isolated_accuracy(made, "float32", {}) == 1
