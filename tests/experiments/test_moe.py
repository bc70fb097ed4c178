"""A dense model and a mixture of experts of equal cost, trained in one run."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from experiments import language_model, moe
from experiments.reports import moe as study
from transformer import axes
from transformer.training import evaluation

FLAGS = {"depth": 1, "sequence_length": 32, "dtype": "float32", "steps": 3}


@pytest.fixture(scope="module")
def tiny() -> Any:
    return moe.experiment(**FLAGS, width=64, experts=4, expert_width=127)


@pytest.fixture(scope="module")
def dense() -> Any:
    """The default MLP, of 256 features: as wide as two experts of 127 and half a router
    of four."""
    return language_model.experiment(**FLAGS)


def test_active_parameters_are_equal() -> None:
    """By default, to the last one."""
    shapes = jax.eval_shape(moe.experiment().init, jax.random.key(0))
    dense, mixture = (study.active_params(shapes[n], 2) for n in ("dense", "moe"))
    assert dense == mixture
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["moe"])) > 2 * mixture


def test_flags_are_those_of_the_language_model_and_its_own() -> None:
    assert moe.experiment().steps == 600 and moe.experiment().batch_size == 16
    with pytest.raises(TypeError, match="got hidden"):
        moe.experiment(hidden=3)


def test_models_share_no_gradient(tiny: Any, dense: Any) -> None:
    """The dense one is `language_model`, its loss and gradients; the mixture adds its
    own."""
    params, batch = jax.jit(tiny.init)(jax.random.key(0)), tiny.batch(0, range(8))
    close(jax.jit(dense.init)(jax.random.key(0)), params["dense"])
    key = jax.random.key(1)

    def total(experiment: Any, params: Any) -> Any:
        loss = experiment.loss(params, batch, key)
        return loss.total, loss

    gradient = jax.value_and_grad(total, argnums=1, has_aux=True)
    run = jax.jit(lambda p: (gradient(tiny, p), gradient(dense, p["dense"])[1]))
    ((_, loss), joint), alone = run(params)
    close(alone, joint["dense"])
    metrics = tiny.metrics(jax.device_get(loss))
    # Both begin with uniform predictions.
    uniform = pytest.approx(metrics["bits_per_byte/moe"], rel=1e-6)
    assert metrics["bits_per_byte/dense"] == uniform
    assert metrics["dispatched_fraction"] == pytest.approx(1.0)
    assert 1.0 <= metrics["load_balance_loss"] < 1.5


def test_each_expert_is_orthogonalized_by_itself(tiny: Any) -> None:
    """An expert without tokens stays; the others move by matrices of norm one."""
    params = jax.jit(tiny.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    layer = gradients["moe"]["stack"]["layers_0"]["mlp"]
    layer["w_in_EDF"] = layer["w_in_EDF"].at[1].set(0)
    run = jax.jit(lambda g, p: tiny.optimizer.update(g, tiny.optimizer.init(p), p)[0])
    change = run(gradients, params)["moe"]["stack"]["layers_0"]["mlp"]["w_in_EDF"]
    assert not np.any(np.asarray(change[1]))
    for expert in (0, 2, 3):
        sizes = np.linalg.svd(np.asarray(change[expert]), compute_uv=False)
        assert 0.6 < sizes.min() / sizes.max() < 1


def test_report_counts_two_experts_for_each_weighted_token(
    tiny: Any, dense: Any
) -> None:
    tokenizer, params = tiny.tokenizer, jax.jit(tiny.init)(jax.random.key(0))
    held_out = tiny.evaluations["validation"]
    mixture = tiny._replace(net=tiny.net["moe"])
    forward = partial(moe.forward, dense.loss, mixture, "float32")
    # The first batch, and the last one, some of whose targets do not count.
    numbers = (0, held_out.batches - 1)
    few = held_out._replace(
        batches=2, batch=lambda step, rows: held_out.batch(numbers[step], rows)
    )
    files = study.report(forward, few, tokenizer, params, 2)
    results = files["results.json"]
    uniform = pytest.approx(results["bits_per_byte/moe"])
    assert results["bits_per_byte/dense"] == uniform
    assert results["max_load"] >= 1
    assert files["experts.png"].axes[0].get_title() == "layer 1"
    usage = study.expert_usage(forward, few, tokenizer.vocab_size)
    _, counts_NEV = evaluation.total_loss(usage, params, axes.make_mesh())
    expected_V = np.zeros(tokenizer.vocab_size)
    for step in range(2):
        batch = few.batch(step, range(16))
        ids, weight = batch["ids_BL"].ravel(), batch["weight_BL"].ravel()
        expected_V += 2 * np.bincount(ids, weight, tokenizer.vocab_size)
    np.testing.assert_array_equal(counts_NEV.sum((0, 1)), expected_V)


def test_typical_tokens_are_those_above_their_share() -> None:
    counts_EV = np.array([[90.0, 10, 0, 500], [10, 90, 4, 500]])
    assert study.typical_tokens(counts_EV, ["a", "b", "c", "all"], 1) == ["a", "b"]
