"""A layer of experts against a dense MLP and a loop over tokens; its balance loss
against the formula."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, ROWS, WIDTH, close

from transformer.network import mlp
from transformer.network.moe import experts, routing
from transformer.objectives import load_balancing

EXPERTS, HIDDEN = 4, 24
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
SLOPE = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
DISPATCHES = {
    "capacity": routing.capacity_dispatch(2.0),
    "dropless": routing.dropless_dispatch(5),
    "dropless, one block": routing.dropless_dispatch(1000),
}
every_dispatch = pytest.mark.parametrize(
    "dispatch", DISPATCHES.values(), ids=DISPATCHES
)


def mixture(**slots: Any) -> experts.MixtureOfExperts:
    given = {"experts": EXPERTS, "k": 2, "dispatch": DISPATCHES["dropless"]}
    return experts.MixtureOfExperts(
        width=WIDTH, hidden_features=HIDDEN, **{**given, **slots}
    )


def weights(number: int = EXPERTS) -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    shapes = {
        "w_router_DE": (WIDTH, number),
        "w_in_EDF": (number, WIDTH, HIDDEN),
        "w_out_EFD": (number, HIDDEN, WIDTH),
    }
    return {
        name: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def applied(module: Any, params: Any, x: jax.Array = X) -> Any:
    """(output, gradients of its product with SLOPE by parameters and x)."""

    def total(params: Any, x: jax.Array) -> Any:
        y = module.apply({"params": params}, x)
        return jnp.sum(y * SLOPE), y

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, y), slopes = run(params, x)
    return y, slopes


def told(module: Any, params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(output, what the router told)."""
    run = jax.jit(lambda p, x: module.apply({"params": p}, x, mutable=["routing"]))
    y, collections = run(params, X)
    (layer,) = load_balancing.router_outputs(collections["routing"])
    return y, layer


@every_dispatch
@pytest.mark.parametrize("gates", [routing.raw_gates, routing.softmax_gates])
def test_one_expert_is_a_dense_mlp(dispatch: Any, gates: Any) -> None:
    one = weights(1)
    dense = {"w_in_DF": one["w_in_EDF"][0], "w_out_FD": one["w_out_EFD"][0]}
    y, (slopes, x_slope) = applied(mlp.MLP(width=WIDTH, hidden_features=HIDDEN), dense)
    module = mixture(experts=1, experts_per_token=1, dispatch=dispatch, gates=gates)
    got, (got_slopes, got_x_slope) = applied(module, one)
    close((y, x_slope), (got, got_x_slope))
    close(slopes["w_in_DF"], got_slopes["w_in_EDF"][0])
    close(slopes["w_out_FD"], got_slopes["w_out_EFD"][0])
    close(jnp.zeros((WIDTH, 1)), got_slopes["w_router_DE"])


def by_hand(params: Any, x: jax.Array, k: int, size: float, renormalise: bool) -> Any:
    """Token after token in float64, each row with `size` places for each expert."""
    router, w_in, w_out = (
        np.asarray(params[n], np.float64)
        for n in ("w_router_DE", "w_in_EDF", "w_out_EFD")
    )
    y, share = np.zeros(x.shape), np.zeros(x.shape[:2])
    for row, place in np.ndindex(*x.shape[:2]):
        if place == 0:
            taken = np.zeros(EXPERTS)
        token = np.asarray(x[row, place], np.float64)
        p = np.exp(token @ router) / np.exp(token @ router).sum()
        best = np.argsort(-p)[:k]
        for expert in best:
            taken[expert] += 1
            if taken[expert] > size:
                continue
            h = token @ w_in[expert]
            h *= (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
            gate = p[expert] / (p[best].sum() if renormalise else 1)
            y[row, place] += gate * (h @ w_out[expert])
            share[row, place] += 1 / k
    return y, share


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_mixture_is_a_loop_over_tokens(k: int) -> None:
    params = weights()
    expected, _ = by_hand(params, X, k, np.inf, renormalise=False)
    for dispatch in (DISPATCHES["dropless"], routing.capacity_dispatch(EXPERTS)):
        y, layer = told(mixture(experts_per_token=k, dispatch=dispatch), params)
        close(expected, y)
        assert layer["kept_BL"].min() == 1


def test_large_capacity_equals_dropless() -> None:
    """Gradients too, of all weights and of the tokens."""
    params = weights()
    expected = applied(mixture(gates=routing.softmax_gates), params)
    roomy = mixture(
        gates=routing.softmax_gates, dispatch=routing.capacity_dispatch(2.0)
    )
    close(expected, applied(roomy, params))


@pytest.mark.parametrize("k", [1, 2])
def test_capacity_drops_the_last_tokens_of_a_full_expert(k: int) -> None:
    """ceil(0.5 k 16 / 4) places: 2 k. What finds none adds nothing, or what is left."""
    params = weights()
    module = mixture(
        experts_per_token=k,
        dispatch=routing.capacity_dispatch(0.5),
        gates=routing.softmax_gates,
    )
    expected, share = by_hand(params, X, k, 2 * k, renormalise=True)
    y, (_, x_slope) = applied(module, params)
    close(expected, y)
    np.testing.assert_allclose(told(module, params)[1]["kept_BL"], share)
    dropped = share == 0
    assert 0 < dropped.sum() < dropped.size
    assert not np.any(np.asarray(y)[dropped])
    assert not np.any(np.asarray(x_slope)[dropped])


def test_permuting_tokens_permutes_the_output() -> None:
    """All tokens of all rows, where none is dropped."""
    order = np.random.default_rng(2).permutation(ROWS * LENGTH)

    def permuted(x: Any) -> jax.Array:
        return x.reshape(-1, WIDTH)[order].reshape(X.shape)

    params = weights()
    run = jax.jit(lambda x: mixture().apply({"params": params}, x))
    close(permuted(run(X)), run(permuted(X)))


def test_gates() -> None:
    p_BLE = jax.nn.softmax(jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32))
    best = np.sort(np.asarray(p_BLE), -1)[..., ::-1]
    plain = routing.top_k(p_BLE, 3)
    shared = routing.top_k(p_BLE, 3, gates=routing.softmax_gates)
    np.testing.assert_allclose(sum(c.gate_BL for c in shared), 1, atol=1e-6)
    for i in range(3):
        close(best[..., i], plain[i].gate_BL)
        close(best[..., i] / best[..., :3].sum(-1), shared[i].gate_BL)
        got = jnp.take_along_axis(p_BLE, plain[i].expert_BL[..., None], -1)[..., 0]
        close(best[..., i], got)


@every_dispatch
@pytest.mark.parametrize("gates", [routing.raw_gates, routing.softmax_gates])
def test_gradients_reach_the_router(dispatch: Any, gates: Any) -> None:
    _, (slopes, _) = applied(mixture(dispatch=dispatch, gates=gates), weights())
    for name, slope in slopes.items():
        assert float(jnp.abs(slope).max()) > 1e-3, name


def test_bfloat16_stays_near_float32() -> None:
    """Of the same numbers, so that every token goes where it did."""
    narrow, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights(), X))
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (narrow, x))
    for dispatch in (DISPATCHES["capacity"], DISPATCHES["dropless"]):
        module = mixture(dispatch=dispatch)
        got = applied(module, narrow, x)
        assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(got))
        close(applied(module, *wide), got, 3e-2)


def test_impossible_numbers_are_refused() -> None:
    for k in (0, EXPERTS + 1):
        with pytest.raises(ValueError, match=f"expected 1 to 4 experts .* got {k}"):
            applied(mixture(experts_per_token=k), weights())
    with pytest.raises(ValueError, match="expected more than 0, got 0"):
        routing.capacity_dispatch(0)
    with pytest.raises(ValueError, match="expected a block of at least 1, got 0"):
        routing.dropless_dispatch(0)
