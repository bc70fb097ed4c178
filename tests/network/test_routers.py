"""Routers and shared experts against their formulas in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.network import mlp
from transformer.network.moe import experts, routing

WIDTH, HIDDEN, EXPERTS, CHOSEN = 6, 5, 8, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, WIDTH)).astype(np.float32)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def choose(score: Any, bias: Any, groups: int, top_groups: int) -> list[int]:
    """The experts of one token, best first (DeepSeek-V3, equations 13 to 16)."""
    preference = (score + bias).reshape(groups, -1)
    group_score = np.sort(preference, axis=1)[:, -2:].sum(1)
    kept = np.argsort(-group_score)[:top_groups]
    hidden = np.setdiff1d(np.arange(groups), kept)
    preference[hidden] = -np.inf
    return list(np.argsort(-preference.reshape(-1))[:CHOSEN])


def mixture(**options: Any) -> experts.MixtureOfExperts:
    return experts.MixtureOfExperts(
        width=WIDTH,
        hidden_features=HIDDEN,
        experts=EXPERTS,
        experts_per_token=CHOSEN,
        dispatch=routing.dropless_dispatch(4),
        activation=mlp.silu,
        expert_map=experts.gated_experts,
        **options,
    )


def init(module: Any) -> Any:
    """Random parameters, the bias of a choice too."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), X)["params"]
    return jax.tree.map(
        lambda a: jnp.asarray(0.7 * RNG.normal(size=a.shape), a.dtype), shapes
    )


def gated(x: Any, w_gate: Any, w_in: Any, w_out: Any) -> Any:
    gate = x @ w_gate
    return (gate * sigmoid(gate) * (x @ w_in)) @ w_out


@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2)])
def test_sigmoid_router_equals_its_formula(groups: int, top_groups: int) -> None:
    """The bias chooses and does not weigh; gates sum to the factor."""
    module = mixture(
        router=routing.sigmoid_router(groups=groups, top_groups=top_groups),
        gates=routing.scale_gates(routing.softmax_gates, 2.5),
    )
    params = init(module)
    y = jax.jit(lambda p: module.apply({"params": p}, X))(params)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    score = sigmoid(X.astype(np.float64) @ p["w_router_DE"])
    expected = np.zeros(X.shape)
    changed = 0
    for at in np.ndindex(X.shape[:2]):
        chosen = choose(score[at], p["bias_choice_E"], groups, top_groups)
        changed += set(chosen) != set(np.argsort(-score[at])[:CHOSEN])
        total = score[at][chosen].sum()
        for e in chosen:
            weights = (p[name][e] for name in ("w_gate_EDF", "w_in_EDF", "w_out_EFD"))
            out = gated(X[at].astype(np.float64), *weights)
            expected[at] += 2.5 * score[at][e] / total * out
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    # The bias, or the groups, decide in some of these tokens.
    assert changed > 3


def test_the_bias_of_a_choice_has_no_gradient() -> None:
    module = mixture(router=routing.sigmoid_router())

    def loss(params: Any) -> jax.Array:
        y: Any = module.apply({"params": params}, X)
        return jnp.square(y).sum()

    grads = jax.jit(jax.grad(loss))(init(module))
    assert not np.any(grads["bias_choice_E"]) and np.any(grads["w_router_DE"])


@pytest.mark.parametrize(
    ("groups", "top_groups", "words"),
    [(3, 1, "divisor of 8"), (4, 5, "4 and 5"), (4, 1, "at most 2")],
)
def test_groups_that_do_not_fit_are_refused(groups, top_groups, words) -> None:
    module = mixture(
        router=routing.sigmoid_router(groups=groups, top_groups=top_groups)
    )
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(module.init, jax.random.key(0), X)


def test_shared_experts_add_a_gated_mlp_to_the_mixture() -> None:
    shared = partial(mlp.GatedMLP, WIDTH, HIDDEN)
    module = experts.SharedExperts(mixture, partial(experts.SigmoidGate, shared, WIDTH))
    params = init(module)
    y = jax.jit(lambda p: module.apply({"params": p}, X))(params)
    routed = jax.jit(lambda p: mixture().apply({"params": p}, X))(params["experts"])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["shared"])
    wide = X.astype(np.float64)
    weights = (p["mlp"][name] for name in ("w_gate_DF", "w_in_DF", "w_out_FD"))
    expected = routed + sigmoid(wide @ p["w_gate_DO"]) * gated(wide, *weights)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
