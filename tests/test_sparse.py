"""Patterns of sparse attention are causal and attend where their masks allow."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from experiments import sparse_attention
from transformer.evaluation import recall_by_distance
from transformer.network import masks
from transformer.training import update

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", sparse_attention.PATTERNS)
def test_a_pattern_is_causal_and_no_wider_than_full(name: str) -> None:
    """What its mask allows is what moves its model's features: in one layer, exactly;
    linear attention sees all before it."""
    length, place = 130, 60
    pattern = sparse_attention.PATTERNS[name]
    net = sparse_attention.net_of(
        pattern, vocab_size=9, length=length, depth=1, width=32
    )
    ids = jax.random.randint(KEY, (1, length), 0, 9)
    tokens = masks.single_document(length)
    params = net.init(KEY, ids, tokens)["params"]
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params
    )

    def features(ids: Any) -> Any:
        return net.apply({"params": params}, ids, tokens)[0]

    changed = ids.at[0, place].set((ids[0, place] + 1) % 9)
    apart = np.abs(np.asarray(features(changed) - features(ids)))[0].max(-1)
    allowed = sparse_attention.mask_of(pattern, length).array(length)[:, place]
    np.testing.assert_array_equal(apart > 1e-6, allowed)


def test_training_lowers_the_loss_and_answers_are_counted_by_distance() -> None:
    experiment = sparse_attention.experiment(
        depth=1, width=32, length=64, batch_size=8, steps=20, vocab_size=300
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *arrays: update.update(experiment, *arrays))
    told = []
    for step in range(experiment.steps):
        state, step_told = advance(state, experiment.batch(step, range(8)))
        told.append(experiment.metrics(step_told.loss))
    losses = [numbers["loss"] for numbers in told]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    held_out = experiment.evaluations["validation"]._replace(batches=1)
    batch = held_out.batch(0, range(16))
    values = batch["targets_BL"].max() + 1

    def near_only(params: Any, batch: Any) -> Any:
        right = jax.nn.one_hot(batch["targets_BL"], int(values))
        return {"near": right * (batch["distance_BL"] < 17)[..., None]}

    shares = recall_by_distance.accuracy_by_distance(
        near_only, held_out, None, bins=(1, 17, 65)
    )
    assert shares == {"near": [1.0, 0.0]}
