"""Norms equal their formulas, written in numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import formulas
import jax
import jax.numpy as jnp
import numpy as np
from cases import close
from formulas import apply_random

from transformer.network import (
    norms,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_norms_equal_their_formulas() -> None:
    got, p = apply_random(norms.LayerNorm(epsilon=0.1), X)
    close(formulas.layer_norm(X, p["gain_D"], p["bias_D"], 0.1), got)
    got, p = apply_random(norms.UnbiasedLayerNorm(epsilon=0.1), X)
    close(formulas.layer_norm(X, p["gain_D"], 0.0, 0.1), got)
    got, p = apply_random(norms.RMSNorm(epsilon=0.1), X)
    close(formulas.rms_norm(X, p["gain_D"], 0.1), got)
    heads = X.reshape(2, 5, 2, 4)
    got, p = apply_random(norms.HeadRMSNorm(epsilon=0.1), heads)
    close(formulas.rms_norm(heads, p["gain_K"], 0.1), got)
    got, p = apply_random(norms.Identity(), X)
    close(X, got)
    assert p == {}


def test_norm_statistics_are_float32() -> None:
    """In bfloat16 a mean far from 0 would hide the deviation."""
    x = (1000.0 + 8.0 * RNG.normal(size=(2, 3, 64))).astype(np.float32)
    narrow = x.astype(jnp.bfloat16)
    wide = narrow.astype(np.float32)
    ones, zeros = np.ones(64, np.float32), np.zeros(64, np.float32)
    layer_norm = jax.jit(partial(norms.layer_norm, epsilon=1e-5))
    got = layer_norm(narrow, ones, zeros)
    assert got.dtype == jnp.bfloat16
    close(formulas.layer_norm(wide, 1.0, 0.0, 1e-5), np.float32(got), 1e-2)
    got = jax.jit(partial(norms.rms_norm, epsilon=1e-6))(narrow, ones)
    close(formulas.rms_norm(wide, 1.0, 1e-6), np.float32(got), 1e-2)


def test_adaptive_norm_is_linear_in_its_condition_and_starts_as_layer_norm() -> None:
    condition_BLJ = RNG.normal(size=(2, 1, 3)).astype(np.float32)
    got, p = apply_random(norms.AdaptiveNorm(8, 3, epsilon=0.1), X, condition_BLJ)
    gain, bias = (condition_BLJ @ p[n]["w_JD"] + p[n]["b_D"] for n in ("gain", "bias"))
    close(formulas.layer_norm(X, 1 + gain, bias, 0.1), got)

    def both(module: Any, x_BLD: Any) -> Any:
        return module(x_BLD, condition_BLJ), module.gate(condition_BLJ)

    module = norms.AdaLNZero(width=8, condition_features=3, epsilon=0.1)
    run = jax.jit(nn.init_with_output(both, module))
    (normal, gate), _ = run(jax.random.key(0), X)
    close(formulas.layer_norm(X, 1.0, 0.0, 0.1), normal)
    assert gate.shape == (2, 1, 8) and not np.asarray(gate).any()
