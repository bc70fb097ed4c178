"""A mixture of experts against a dense MLP and a loop over tokens."""

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
DIRECTION = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
DISPATCHES = {
    "capacity": routing.capacity_dispatch(2.0),
    "dropless": routing.dropless_dispatch(5),
    "dropless, one block": routing.dropless_dispatch(1000),
}
every_dispatch = pytest.mark.parametrize(
    "dispatch", DISPATCHES.values(), ids=DISPATCHES
)


def mixture(**slots: Any) -> experts.MixtureOfExperts:
    defaults = {
        "experts": EXPERTS,
        "experts_per_token": 2,
        "dispatch": DISPATCHES["dropless"],
    }
    return experts.MixtureOfExperts(
        width=WIDTH, hidden_features=HIDDEN, **{**defaults, **slots}
    )


def weights(experts: int = EXPERTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {
        "w_router_DE": (WIDTH, experts),
        "w_in_EDF": (experts, WIDTH, HIDDEN),
        "w_out_EFD": (experts, HIDDEN, WIDTH),
    }
    return {
        name: np.float32(0.3 * rng.normal(size=shape)) for name, shape in shapes.items()
    }


def output_and_grads(module: Any, params: Any, x: Any = X) -> Any:
    """(output, gradients of its product with DIRECTION by parameters and x)."""

    def total(params: Any, x: jax.Array) -> Any:
        y = module.apply({"params": params}, x)
        return jnp.sum(y * DIRECTION), y

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, y), grads = jax.device_get(run(params, x))
    return y, grads


def output_and_routing(module: Any, params: Any) -> tuple[np.ndarray, Any]:
    """(output, arrays that the router sowed)."""
    run = jax.jit(lambda p, x: module.apply({"params": p}, x, mutable=["routing"]))
    y, collections = jax.device_get(run(params, X))
    (layer,) = load_balancing.router_outputs(collections["routing"])
    return y, layer


@every_dispatch
@pytest.mark.parametrize("gates", [routing.raw_gates, routing.softmax_gates])
def test_one_expert_equals_a_dense_mlp(dispatch: Any, gates: Any) -> None:
    one = weights(1)
    dense = {"w_in_DF": one["w_in_EDF"][0], "w_out_FD": one["w_out_EFD"][0]}
    y, (grads, x_grad) = output_and_grads(
        mlp.MLP(width=WIDTH, hidden_features=HIDDEN), dense
    )
    module = mixture(experts=1, experts_per_token=1, dispatch=dispatch, gates=gates)
    got, (got_grads, got_x_grad) = output_and_grads(module, one)
    close((y, x_grad), (got, got_x_grad))
    close(grads["w_in_DF"], got_grads["w_in_EDF"][0])
    close(grads["w_out_FD"], got_grads["w_out_EFD"][0])
    close(np.zeros((WIDTH, 1)), got_grads["w_router_DE"])


def loop_over_tokens(params: Any, x: Any, k: int, size: float, softmax: bool) -> Any:
    """One token at a time in float64; each expert has `size` slots in each row."""
    router, w_in, w_out = (
        np.asarray(params[n], np.float64)
        for n in ("w_router_DE", "w_in_EDF", "w_out_EFD")
    )
    y, kept = np.zeros(x.shape), np.zeros(x.shape[:2])
    for row, position in np.ndindex(*x.shape[:2]):
        if position == 0:
            count = np.zeros(EXPERTS)
        token = np.asarray(x[row, position], np.float64)
        p = np.exp(token @ router) / np.exp(token @ router).sum()
        best = np.argsort(-p)[:k]
        for expert in best:
            count[expert] += 1
            if count[expert] > size:
                continue
            h = token @ w_in[expert]
            h *= (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
            gate = p[expert] / (p[best].sum() if softmax else 1)
            y[row, position] += gate * (h @ w_out[expert])
            kept[row, position] += 1 / k
    return y, kept


@pytest.mark.parametrize("k", [1, 2, 4])
def test_mixture_equals_a_loop_over_tokens(k: int) -> None:
    params = weights()
    expected, _ = loop_over_tokens(params, X, k, np.inf, softmax=False)
    for dispatch in (
        DISPATCHES["dropless"],
        routing.capacity_dispatch(EXPERTS),
        routing.dense_dispatch,
    ):
        y, layer = output_and_routing(
            mixture(experts_per_token=k, dispatch=dispatch), params
        )
        close(expected, y)
        assert layer["kept_BL"].min() == 1


def test_large_capacity_and_dense_equal_dropless() -> None:
    """Gradients too, of all weights and of the tokens."""
    params = weights()
    expected = output_and_grads(mixture(gates=routing.softmax_gates), params)
    for dispatch in (routing.capacity_dispatch(2.0), routing.dense_dispatch):
        module = mixture(gates=routing.softmax_gates, dispatch=dispatch)
        close(expected, output_and_grads(module, params))


@pytest.mark.parametrize("k", [1, 2])
def test_capacity_drops_the_last_tokens_of_a_full_expert(k: int) -> None:
    """ceil(0.5 k 16 / 4) = 2 k slots. A choice without a slot adds 0."""
    params = weights()
    module = mixture(
        experts_per_token=k,
        dispatch=routing.capacity_dispatch(0.5),
        gates=routing.softmax_gates,
    )
    expected, kept = loop_over_tokens(params, X, k, 2 * k, softmax=True)
    y, (_, x_grad) = output_and_grads(module, params)
    close(expected, y)
    np.testing.assert_allclose(output_and_routing(module, params)[1]["kept_BL"], kept)
    dropped = kept == 0
    assert 0 < dropped.sum() < dropped.size
    assert not np.any(y[dropped])
    assert not np.any(x_grad[dropped])


def test_mixture_is_permutation_equivariant() -> None:
    """All tokens of all rows, when none is dropped."""
    order = np.random.default_rng(2).permutation(ROWS * LENGTH)

    def permute(x: Any) -> np.ndarray:
        return np.asarray(x).reshape(-1, WIDTH)[order].reshape(X.shape)

    params = weights()
    run = jax.jit(mixture().apply)
    close(permute(run({"params": params}, X)), run({"params": params}, permute(X)))


def test_gates_equal_their_formulas() -> None:
    p_BLE = RNG.dirichlet(np.ones(5), (2, 3)).astype(np.float32)
    best = np.sort(p_BLE, -1)[..., ::-1]
    plain, shared = jax.device_get(
        jax.jit(
            lambda p_BLE: (
                routing.top_k(p_BLE, 3),
                routing.top_k(p_BLE, 3, gates=routing.softmax_gates),
            )
        )(p_BLE)
    )
    np.testing.assert_allclose(sum(c.gate_BL for c in shared), 1, atol=1e-6)
    for i in range(3):
        close(best[..., i], plain[i].gate_BL)
        close(best[..., i] / best[..., :3].sum(-1), shared[i].gate_BL)
        got = np.take_along_axis(p_BLE, plain[i].expert_BL[..., None], -1)[..., 0]
        close(best[..., i], got)


@every_dispatch
@pytest.mark.parametrize("gates", [routing.raw_gates, routing.softmax_gates])
def test_gradients_reach_the_router(dispatch: Any, gates: Any) -> None:
    _, (grads, _) = output_and_grads(mixture(dispatch=dispatch, gates=gates), weights())
    for name, grad in grads.items():
        assert np.abs(grad).max() > 1e-3, name


def test_bfloat16_stays_near_float32() -> None:
    """With inputs rounded to bfloat16 in both, so that every token has the same
    experts."""
    narrow, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights(), X))
    wide = jax.tree.map(lambda a: a.astype(np.float32), (narrow, x))
    for dispatch in (DISPATCHES["capacity"], DISPATCHES["dropless"]):
        module = mixture(dispatch=dispatch)
        got = output_and_grads(module, narrow, x)
        assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(got))
        close(output_and_grads(module, *wide), got, 3e-2)


def test_invalid_sizes_raise() -> None:
    for k in (0, EXPERTS + 1):
        with pytest.raises(ValueError, match=f"expected 1 to 4, got {k}"):
            output_and_grads(mixture(experts_per_token=k), weights())
    with pytest.raises(ValueError, match="expected more than 0, got 0"):
        routing.capacity_dispatch(0)
    with pytest.raises(ValueError, match="expected a block of at least 1, got 0"):
        routing.dropless_dispatch(0)
