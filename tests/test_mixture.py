"""The experiment moe."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from experiments import language_model as austen
from experiments import moe

# The experiment.


@pytest.fixture(scope="module")
def tiny() -> Any:
    return moe.experiment(
        depth=1,
        width=64,
        number=4,
        hidden_features=127,
        length=32,
        dtype="float32",
        steps=3,
    )


def test_both_models_cost_the_same() -> None:
    """By default to the last operation; a remainder is the mixture's loss."""
    told = moe.experiment()
    dense, sparse = told.report.args[-1].values()
    assert dense == sparse == told.flops_per_row / 2 / told.tokens_per_row / 1e6


def test_the_models_do_not_touch_each_other(tiny: Any) -> None:
    """The dense one is `austen`, its loss and gradients; the mixture adds its own."""
    base = austen.experiment(depth=1, length=32, dtype="float32", steps=3)
    # As wide as two experts of 127, with half a router of four.
    params, batch = tiny.init(jax.random.key(0)), tiny.batch(0, range(8))
    close(base.init(jax.random.key(0)), params["dense"])
    key = jax.random.key(1)

    def total(of: Any, params: Any) -> Any:
        loss = of.loss(params, batch, key)
        return loss.total, loss

    slope = jax.value_and_grad(total, argnums=1, has_aux=True)
    run = jax.jit(lambda p: (slope(tiny, p), slope(base, p["dense"])[1]))
    ((_, loss), both), dense = run(params)
    close(dense, both["dense"])
    told = tiny.metrics(jax.device_get(loss))
    # Both begin with equal probabilities of all symbols.
    assert told["dense"] == pytest.approx(told["mixture"], rel=1e-6)
    assert told["kept"] == pytest.approx(1.0)
    assert 1.0 <= told["balance"] < 1.5


def test_experts_are_orthogonalised_one_by_one(tiny: Any) -> None:
    """An expert that no token met stays; the others move by matrices of norm one."""
    params = tiny.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    slopes = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    layer = slopes["mixture"]["stack"]["layers_0"]["mlp"]
    layer["w_in_EDF"] = layer["w_in_EDF"].at[1].set(0)
    run = jax.jit(lambda g, p: tiny.optimizer.update(g, tiny.optimizer.init(p), p)[0])
    change = run(slopes, params)["mixture"]["stack"]["layers_0"]["mlp"]["w_in_EDF"]
    assert not np.any(np.asarray(change[1]))
    for expert in (0, 2, 3):
        sizes = np.linalg.svd(np.asarray(change[expert]), compute_uv=False)
        assert 0.6 < sizes.min() / sizes.max() < 1


def test_what_it_shows(tiny: Any) -> None:
    """Each weighted token of the held-out text chose two experts; untrained, both
    models say every symbol is as likely."""
    speech, symbols, held_out, work = tiny.report.args
    few, params = held_out._replace(batches=2), tiny.init(jax.random.key(0))
    shown = moe.show(speech, symbols, few, work, params, jax.random.key(0))
    numbers = shown["results.json"]
    assert numbers["bits per byte, dense"] == pytest.approx(
        numbers["bits per byte, mixture"]
    )
    assert numbers["largest load, in equal shares"] >= 1
    assert shown["experts.png"].axes[0].get_title() == "layer 1"
    # The last batch, some of whose targets do not count.
    batch = held_out.batch(held_out.batches - 1, range(16))
    _, counts_NEV = jax.jit(few.loss)(params, batch, jax.random.key(0))
    ids, weight = batch["ids_BL"].ravel(), batch["weight_BL"].ravel()
    expected_V = 2 * np.bincount(ids, weight, symbols.vocab_size)
    np.testing.assert_array_equal(counts_NEV.sum((0, 1)), expected_V)


def test_typical_symbols_are_those_above_their_share() -> None:
    counts_EV = np.array([[90.0, 10, 0, 500], [10, 90, 4, 500]])
    assert moe.typical(counts_EV, ["a", "b", "c", "all"], 1) == ["a", "b"]
