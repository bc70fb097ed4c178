"""Simple readers: what of a label can be had from features without any network.

On pixels they are the baselines of recognition; on a network's features, probes of what
it has learned (Alain and Bengio 2016, arXiv 1610.01644). Features are float arrays
[examples, features], labels int [examples]; both give the labels [asked examples] that
they choose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

AT_ONCE = 256


def in_parts(
    function: Callable[[np.ndarray], Any], rows: np.ndarray, *, at_once: int = AT_ONCE
) -> np.ndarray:
    """`function` of all rows, `at_once` at a time, the last ones filled up with zeros,
    so that what is compiled is compiled once."""
    edges = [(0, -len(rows) % at_once), *[(0, 0)] * (rows.ndim - 1)]
    parts = np.split(np.pad(rows, edges), max(1, -(-len(rows) // at_once)))
    return np.concatenate([np.asarray(function(part)) for part in parts])[: len(rows)]


def nearest(known: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The label of the nearest known example, by Euclidean distance."""
    length = np.square(known).sum(1)
    return in_parts(
        lambda part: label[np.argmin(length - 2 * part @ known.T, axis=1)], asked
    )


def linear(
    known: np.ndarray,
    label: np.ndarray,
    asked: np.ndarray,
    *,
    classes: int,
    steps: int = 300,
    rate: float = 0.01,
) -> np.ndarray:
    """Logistic regression: cross-entropy of a linear map, by Adam on all at once."""
    x_BP, label_B, adam = jnp.float32(known), jnp.int32(label), optax.adam(rate)

    def logits(w: dict[str, jax.Array], x_BP: jax.Array) -> jax.Array:
        return x_BP @ w["w_PV"] + w["b_V"][None]

    def loss(w: dict[str, jax.Array], x_BP: jax.Array, label_B: jax.Array) -> jax.Array:
        cross = optax.softmax_cross_entropy_with_integer_labels
        return cross(logits(w, x_BP), label_B).mean()

    @jax.jit
    def fitted(x_BP: jax.Array, label_B: jax.Array) -> dict[str, jax.Array]:
        def step(carry: Any, _: None) -> Any:
            w, state = carry
            updates, state = adam.update(jax.grad(loss)(w, x_BP, label_B), state)
            return (optax.apply_updates(w, updates), state), None

        w = {"w_PV": jnp.zeros((x_BP.shape[1], classes)), "b_V": jnp.zeros(classes)}
        return jax.lax.scan(step, (w, adam.init(w)), length=steps)[0][0]

    w = fitted(x_BP, label_B)
    return np.asarray(logits(w, jnp.float32(asked)).argmax(-1))


def accuracies(
    known: np.ndarray,
    label: np.ndarray,
    asked: np.ndarray,
    right: np.ndarray,
    *,
    classes: int,
) -> dict[str, float]:
    """The share of asked examples whose label is told `right`, by the reader's name.
    Examples [examples, ...] are flattened, and scaled to at most 1 among the known."""
    scale = 1 / max(float(np.abs(known).max()), 1e-12)
    known, asked = (
        a.reshape(len(a), -1).astype(np.float32) * scale for a in (known, asked)
    )
    told = {
        "logistic regression": linear(known, label, asked, classes=classes),
        "nearest neighbour": nearest(known, label, asked),
    }
    return {name: float(np.mean(chosen == right)) for name, chosen in told.items()}
