"""Long rows: linear attention, needles in texts, and what patterns can see."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sparse_attention
from transformer.data.text import associative_recall
from transformer.evaluation import attention_cost, recall_by_distance
from transformer.network import linear_attention, masks
from transformer.training import update

KEY = jax.random.key(0)
CODE = associative_recall.NeedleVocabulary(first=50, keys=3, values=4, questions=5)


def given(length: int, heads: int = 2) -> list[jax.Array]:
    keys = jax.random.split(KEY, 3)
    return [2 * jax.random.normal(key, (2, length, heads, 8)) for key in keys]


def attended(*qkv: jax.Array, chunk: int = 16, **how: Any) -> jax.Array:
    tokens = masks.single_document(qkv[0].shape[1])
    whole = {"mask": masks.causal(), "queries": tokens, "keys": tokens, "scale": 1.0}
    return linear_attention.linear_attention(*qkv, **{**whole, **how}, chunk=chunk)


@pytest.mark.parametrize("length", [1, 15, 16, 50])
def test_linear_attention_is_its_quadratic_definition(length: int) -> None:
    """Forward and backward, whatever the chunks."""
    qkv = given(length)
    np.testing.assert_allclose(
        attended(*qkv), linear_attention.reference_linear_attention(*qkv), atol=1e-5
    )

    def total(attend: Any) -> Any:
        return jax.grad(lambda *a: jnp.sin(attend(*a)).sum(), argnums=(0, 1, 2))

    pairs = zip(
        total(attended)(*qkv),
        total(linear_attention.reference_linear_attention)(*qkv),
        strict=True,
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_linear_attention_refuses_what_it_is_not() -> None:
    q, k, v = given(8)
    with pytest.raises(ValueError, match=r"expected the mask causal\(\).*window"):
        attended(q, k, v, mask=masks.causal() & masks.window(3))
    with pytest.raises(ValueError, match="keys of the queries' shape"):
        attended(q, k[:, :, :1], v[:, :, :1])


def test_every_key_is_hung_once_and_asked_for_behind_it() -> None:
    """The answer is the target alone: it is nowhere to be read."""
    rng, length = np.random.default_rng(0), 40
    for _ in range(20):
        ids = rng.integers(0, 50, associative_recall.text_length(CODE, length))
        row = associative_recall.insert_needles(ids, rng, CODE)
        tokens, targets = row["ids_BL"], row["targets_BL"]
        assert tokens.shape == targets.shape == (length,)
        asked = row["question_BL"] > 0
        assert asked.sum() == CODE.keys * CODE.questions
        np.testing.assert_array_equal(
            targets[:-1][~asked[:-1]], tokens[1:][~asked[:-1]]
        )
        np.testing.assert_array_equal(tokens[tokens < 50], ids[:-1])
        answers = [CODE.answer(value) for value in range(CODE.values)]
        assert not np.isin(tokens, answers).any()
        for place in np.flatnonzero(asked):
            key = tokens[place] - CODE.question(0)
            hung = tokens[place - row["distance_BL"][place]] - CODE.needle(0, 0)
            value = targets[place] - CODE.answer(0)
            assert (key, value) == divmod(hung, CODE.values)
        hung = tokens[tokens >= CODE.needle(0, 0)] - CODE.needle(0, 0)
        assert sorted(hung // CODE.values) == [0, 1, 2]
        np.testing.assert_array_equal(row["text_weight_BL"], targets < 50)
    with pytest.raises(ValueError, match="at least 19, got 18"):
        associative_recall.text_length(CODE, 18)


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


def test_exponents_are_those_of_powers() -> None:
    lengths = [256, 512, 1024]
    assert attention_cost.scaling_exponent(
        lengths, [3.0 * n**1.5 for n in lengths]
    ) == pytest.approx(1.5)
    spent = attention_cost.cost(
        linear_attention.linear_attention, masks.causal(), 64, rounds=1
    )
    assert spent.seconds > 0 and spent.bytes > 64 * 4 * 32 * 4


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
