"""The bias of a linear map, as a value for a slot `make_bias`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

MakeBias = Callable[[nn.Module, str, tuple[int, ...]], jax.Array | float]


def no_bias(module: nn.Module, name: str, shape: tuple[int, ...]) -> float:
    """No bias: adds 0."""
    return 0.0


def zero_init_bias(module: nn.Module, name: str, shape: tuple[int, ...]) -> jax.Array:
    """A parameter of `shape`, initialized to 0, that broadcasts to (B, L, *shape)."""
    bias = module.param(name, nn.initializers.zeros, shape)
    return bias[None, None]


def _zero_init_bias_of(
    module: nn.Module, name: str, shape: tuple[int, ...], *, names: tuple[str, ...]
) -> jax.Array | float:
    return zero_init_bias(module, name, shape) if name in names else 0.0


def zero_init_bias_of(*names: str) -> MakeBias:
    """`zero_init_bias` for the parameters of these names, `no_bias` for others: the
    queries, keys and values of Qwen 2, all but the keys of Whisper."""
    return partial(_zero_init_bias_of, names=names)
