"""Stacks: layers that differ, and what a scanned stack refuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from formulas import apply_random

from transformer.network import (
    attention,
    masks,
    mlp,
    norms,
    stack,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_unrolled_layers_may_differ() -> None:
    def make(block: Any, layer: int) -> Any:
        make_mlp = partial(mlp.MLP, width=8, hidden_features=4 * (layer + 1))
        return block(partial(Identity), make_mlp)

    class Identity(norms.Identity):
        def __call__(self, x_BLD: Any, tokens: Any) -> Any:
            return x_BLD

    _, p = apply_random(
        stack.UnrolledStack(depth=3, make_block=make), X, masks.single_document(5)
    )
    shapes = [p[f"layers_{i}"]["mlp"]["w_in_DF"].shape for i in range(3)]
    assert shapes == [(8, 4), (8, 8), (8, 12)]


def layer_scale(layer: int) -> Any:
    """A mixer that depends on `layer`."""
    return partial(attention.SoftmaxAttention, soft_cap=1.0 + layer)


@pytest.mark.parametrize("differs", [False, True], ids=["equal", "different"])
def test_scanned_requires_equal_blocks(differs: bool) -> None:
    """Blocks that are made anew for each layer are equal unless a value differs."""

    def make(block: Any, layer: int) -> Any:
        make_mixer = layer_scale(layer if differs else 0)
        make_attention = partial(
            attention.Attention, 8, 2, 2, 4, masks.causal(), make_mixer=make_mixer
        )
        return block(make_attention, lambda: mlp.MLP(8, 8), norms.RMSNorm)

    scanned = stack.ScannedStack(depth=3, make_block=make)
    run = partial(jax.eval_shape, scanned.init, jax.random.key(0), X)
    if not differs:
        run(masks.single_document(5))
        return
    with pytest.raises(ValueError, match="equal blocks, got another for layer 1"):
        run(masks.single_document(5))
