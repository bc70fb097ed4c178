"""Gated experts against a loop over tokens in float64, and against a gated MLP."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, ROWS, WIDTH, close

from transformer.network import biases, mlp
from transformer.network.moe import experts, routing

EXPERTS, HIDDEN = 5, 24
ALPHA, LIMIT = 1.702, 0.5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
SHAPES = {
    "w_router_DE": (WIDTH, EXPERTS),
    "b_router_E": (EXPERTS,),
    "w_gate_EDF": (EXPERTS, WIDTH, HIDDEN),
    "b_gate_EF": (EXPERTS, HIDDEN),
    "w_in_EDF": (EXPERTS, WIDTH, HIDDEN),
    "b_in_EF": (EXPERTS, HIDDEN),
    "w_out_EFD": (EXPERTS, HIDDEN, WIDTH),
    "b_out_ED": (EXPERTS, WIDTH),
}


def mixture(**slots: Any) -> experts.MixtureOfExperts:
    defaults = {
        "width": WIDTH,
        "hidden_features": HIDDEN,
        "experts": EXPERTS,
        "experts_per_token": 3,
        "dispatch": routing.dropless_dispatch(5),
        "activation": mlp.silu,
        "expert_map": experts.gated_experts,
    }
    return experts.MixtureOfExperts(**{**defaults, **slots})


def weights(*, with_bias: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = {
        name: np.float32(0.3 * rng.normal(size=shape)) for name, shape in SHAPES.items()
    }
    return {k: v for k, v in drawn.items() if with_bias or not k.startswith("b_")}


def silu_glu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    return gate / (1 + np.exp(-gate)) * up


def clamped_glu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate, up = np.minimum(gate, LIMIT), np.clip(up, -LIMIT, LIMIT)
    return gate / (1 + np.exp(-ALPHA * gate)) * (up + 1)


def loop_over_tokens(params: Any, glu: Any, *, normalized: bool) -> np.ndarray:
    """Every token by itself in float64, with a loop over its three experts."""
    p = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    p |= {name: np.asarray(value, np.float64) for name, value in params.items()}
    y = np.zeros(X.shape)
    for place in np.ndindex(ROWS, LENGTH):
        token = np.asarray(X[place], np.float64)
        scores = np.exp(token @ p["w_router_DE"] + p["b_router_E"])
        share = scores / scores.sum()
        best = np.argsort(-share)[:3]
        for e in best:
            gate = token @ p["w_gate_EDF"][e] + p["b_gate_EF"][e]
            up = token @ p["w_in_EDF"][e] + p["b_in_EF"][e]
            out = glu(gate, up) @ p["w_out_EFD"][e] + p["b_out_ED"][e]
            y[place] += out * share[e] / (share[best].sum() if normalized else 1)
    return y


CASES = {
    "Mixtral": (
        {"gates": routing.softmax_gates},
        {"glu": silu_glu, "normalized": True},
    ),
    "Qwen 3 MoE": (
        {"gates": routing.raw_gates},
        {"glu": silu_glu, "normalized": False},
    ),
    "gpt-oss": (
        {
            "gates": routing.softmax_gates,
            "expert_map": experts.clamped_experts(alpha=ALPHA, limit=LIMIT),
            "make_bias": biases.zero_init_bias,
        },
        {"glu": clamped_glu, "normalized": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gated_experts_equal_a_loop_over_tokens(name: str) -> None:
    """With no token dropped: by blocks, by a large capacity, or by all experts."""
    slots, formula = CASES[name]
    params = weights(with_bias="make_bias" in slots)
    expected = loop_over_tokens(params, **formula)
    for dispatch in (
        routing.dropless_dispatch(5),
        routing.capacity_dispatch(EXPERTS),
        routing.dense_dispatch,
    ):
        module = mixture(**slots, dispatch=dispatch)
        close(expected, jax.jit(module.apply)({"params": params}, X))


def test_one_gated_expert_equals_a_gated_mlp() -> None:
    """Gradients too."""
    params = weights(with_bias=False)
    one = {name: value[:1] for name, value in params.items() if name[-3] == "E"}
    dense = {
        "w_gate_DF": one["w_gate_EDF"][0],
        "w_in_DF": one["w_in_EDF"][0],
        "w_out_FD": one["w_out_EFD"][0],
    }
    module = mixture(experts=1, experts_per_token=1)
    router = {"w_router_DE": params["w_router_DE"][:, :1]}

    def total(module: Any, params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(module.apply({"params": params}, X)))

    gated = mlp.GatedMLP(width=WIDTH, hidden_features=HIDDEN)
    got = jax.jit(jax.grad(lambda p: total(module, {**p, **router})))(one)
    got = jax.device_get(got)
    expected = jax.jit(jax.grad(lambda p: total(gated, p)))(dense)
    close(expected["w_gate_DF"], got["w_gate_EDF"][0])
    close(expected["w_in_DF"], got["w_in_EDF"][0])
    close(expected["w_out_FD"], got["w_out_EFD"][0])


def test_ungated_experts_with_biases_equal_an_mlp() -> None:
    module = mixture(
        experts=1,
        experts_per_token=1,
        expert_map=experts.mlp_experts,
        make_bias=biases.zero_init_bias,
    )
    params = weights(with_bias=True)
    one = {name: params[name][:1] for name in ("w_in_EDF", "w_out_EFD")}
    one |= {name: params[name][:1] for name in ("b_in_EF", "b_out_ED", "b_router_E")}
    dense = {
        "w_in_DF": one["w_in_EDF"][0],
        "b_in_F": one["b_in_EF"][0],
        "w_out_FD": one["w_out_EFD"][0],
        "b_out_D": one["b_out_ED"][0],
    }
    plain = mlp.MLP(
        width=WIDTH,
        hidden_features=HIDDEN,
        activation=mlp.silu,
        make_bias=biases.zero_init_bias,
    )
    one["w_router_DE"] = params["w_router_DE"][:, :1]
    got = jax.jit(module.apply)({"params": one}, X)
    close(jax.jit(plain.apply)({"params": dense}, X), got)
