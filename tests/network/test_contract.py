"""Each theorem of the contract fails for an attention that violates it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from transformer.network import attention, contract, factorized_attention, masks, stack

Make = Callable[..., Any]


def make_attention(
    make_mixer: Make = attention.SoftmaxAttention, **changes: Any
) -> Make:
    settings: dict[str, Any] = {
        "width": 32,
        "heads": 4,
        "kv_heads": 2,
        "head_features": 8,
        "mask": masks.causal(),
        "make_mixer": make_mixer,
    }
    return partial(attention.Attention, **{**settings, **changes})


class Scaled(nn.Module):
    """Softmax attention times `factor(self, in_order)`."""

    factor: Callable[[nn.Module, bool], Any]
    decodes: bool = True

    @nn.compact
    def __call__(self, *qkv: jax.Array, in_order: bool, **where: Any) -> jax.Array:
        y_BLHK = attention.SoftmaxAttention()(*qkv, in_order=in_order, **where)
        return y_BLHK * self.factor(self, in_order)


def parameter(name: str) -> Make:
    return lambda module, in_order: module.param(name, nn.initializers.ones, (1,))[0]


def on_a_mesh(module: Any, in_order: bool) -> float:
    return 1.0 if jax.sharding.get_abstract_mesh().empty else 1.01


BROKEN = {
    "names": (make_attention(partial(Scaled, parameter("factor"))), "got factor of"),
    "dtype": (
        make_attention(partial(Scaled, parameter("lambda_K"))),
        "bfloat16 features: got float32",
    ),
    "causality": (make_attention(mask=masks.full()), "causality: the gradient of"),
    "cached": (
        make_attention(partial(Scaled, lambda module, in_order: 1 + 0.01 * in_order)),
        "cached = whole: largest relative difference .* expected at most 1e-04",
    ),
    "sharded": (
        make_attention(partial(Scaled, on_a_mesh)),
        "eight devices = one: largest relative difference",
    ),
}


@pytest.mark.parametrize(("make", "words"), BROKEN.values(), ids=BROKEN)
def test_a_violation_names_its_theorem(make: Make, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        contract.check_attention(make, width=32)


def test_a_mixer_that_cannot_decode_refuses_a_cache() -> None:
    mixer = partial(Scaled, lambda module, in_order: 1.0, decodes=False)
    module = make_attention(mixer)()
    with pytest.raises(ValueError, match="Scaled cannot decode from a cache"):
        module.empty_cache(1, 8, 1, jnp.float32)
    with pytest.raises(AssertionError, match="expected empty_cache to raise"):
        contract.check_attention(make_attention(), width=32, decodes=False)
    axis = factorized_attention.along_time(2)
    folded = factorized_attention.FactorizedAttention(make_attention(), axis, 2)
    with pytest.raises(ValueError, match="cannot decode from a cache"):
        folded.empty_cache(1, 8, 1, jnp.float32)


def test_the_kinds_of_blocks() -> None:
    depth = 4
    assert stack.block_kinds(lambda _, i: i % 2, Any, depth) == [0, 1, 0, 1]
    assert stack.block_kinds(lambda _, i: [{"a": 1}], Any, depth) == [0] * depth


@pytest.mark.slow
def test_grouped_attention_with_narrow_values_keeps_the_contract() -> None:
    contract.check_attention(
        make_attention(value_features=4, mask=masks.causal() & masks.window(3)),
        width=32,
    )
