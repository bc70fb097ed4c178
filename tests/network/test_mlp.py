"""MLPs equal their formulas, written in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import close
from formulas import apply_random

from transformer.network import (
    biases,
    mlp,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": (mlp.gelu, gelu),
    "relu_squared": (mlp.relu_squared, lambda x: np.maximum(x, 0) ** 2),
    "silu": (mlp.silu, lambda x: x / (1 + np.exp(-x))),
}


@pytest.mark.parametrize(("ours", "formula"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_mlp_equals_its_formula(ours: Any, formula: Any) -> None:
    settings = {"width": 8, "hidden_features": 12, "activation": ours}
    got, p = apply_random(mlp.MLP(make_bias=biases.zero_init_bias, **settings), X)
    hidden = formula(X @ p["w_in_DF"] + p["b_in_F"])
    close(hidden @ p["w_out_FD"] + p["b_out_D"], got)
    got, p = apply_random(mlp.GatedMLP(**settings), X)
    assert set(p) == {"w_gate_DF", "w_in_DF", "w_out_FD"}
    close((formula(X @ p["w_gate_DF"]) * (X @ p["w_in_DF"])) @ p["w_out_FD"], got)
