"""Attention patterns: what they attend to, and what the report says of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from experiments import sparse_attention
from experiments.reports import sparse_attention as study
from transformer.evaluation import attention_cost
from transformer.models import decoder
from transformer.network import masks
from transformer.training import update

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", sparse_attention.PATTERNS)
def test_a_pattern_attends_to_what_its_mask_allows(name: str) -> None:
    """In a model of one layer a token changes the features of the tokens that attend to
    it, and of no others; linear attention attends to all tokens before."""
    length, place = 130, 60
    pattern = sparse_attention.PATTERNS[name]
    net = decoder.language_model(
        depth=1, vocab_size=9, width=32, make_attention=pattern.attention(32, length)
    )
    ids = jax.random.randint(KEY, (1, length), 0, 9)
    tokens = masks.single_document(length)
    params = jax.jit(net.init)(KEY, ids, tokens)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params
    )

    @jax.jit
    def features(ids: Any) -> Any:
        return net.apply({"params": params}, ids, tokens)[0]

    changed = ids.at[0, place].set((ids[0, place] + 1) % 9)
    difference = np.abs(np.asarray(features(changed) - features(ids)))[0].max(-1)
    allowed = pattern.mask(length).array(length)[:, place]
    np.testing.assert_array_equal(difference > 1e-6, allowed)


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_report_has_every_pattern(
    monkeypatch: Any,
) -> None:
    experiment = sparse_attention.experiment(
        depth=1, width=32, sequence_length=64, batch_size=8, steps=20, vocab_size=300
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *arrays: update.update(experiment, *arrays))
    metrics = []
    for step in range(experiment.steps):
        state, outcome = advance(state, experiment.batch(step, range(8)))
        metrics.append(experiment.metrics(outcome.loss))
    losses = [numbers["loss"] for numbers in metrics]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]

    names = set(sparse_attention.PATTERNS)
    monkeypatch.setattr(
        study.attention_cost, "cost", lambda kernel, mask, n: attention_cost.Cost(n, n)
    )
    held_out = experiment.evaluations["validation"]._replace(batches=1)
    vocab_size = int(held_out.batch(0, range(16))["targets_BL"].max()) + 1

    def near_only(params: Any, batch: Any) -> Any:
        right = jax.nn.one_hot(batch["targets_BL"], vocab_size)
        return dict.fromkeys(names, right * (batch["distance_BL"] < 33)[..., None])

    monkeypatch.setattr(study, "BINS", (1, 33, 65))
    files = study.report(
        sparse_attention.PATTERNS, near_only, held_out, None, chance=1 / 8
    )
    results = files["results.json"]
    for name in names:
        assert results[f"recall_accuracy/{name}/distance_1_32"] == 1
        assert results[f"recall_accuracy/{name}/distance_33_64"] == 0
        assert results[f"scaling_exponent/seconds/{name}"] == pytest.approx(1)
    assert results["milliseconds/full_matrix/length_4096"] == 4096e3
    assert {n.split("/")[1] for n in metrics[0] if "/" in n} == names
