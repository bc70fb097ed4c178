"""Modules with random parameters, and formulas in numpy, for tests of the network."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def apply_random(module: Any, *inputs: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A module's output, and its parameters, random so that none has a special
    value."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda s: rng.normal(size=s.shape).astype(np.float32), shapes.get("params", {})
    )
    return np.asarray(jax.jit(module.apply)({"params": params}, *inputs)), params


def layer_norm(x: np.ndarray, gain: Any, bias: Any, epsilon: float) -> np.ndarray:
    """In float64."""
    x = x.astype(np.float64)
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return (x - x.mean(-1, keepdims=True)) / deviation * gain + bias


def rms_norm(x: np.ndarray, gain: Any, epsilon: float) -> np.ndarray:
    """In float64."""
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gain
