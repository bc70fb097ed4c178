"""The optional bias of a linear map, as a value in a slot: `learned` or `absent`."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

Offset = Callable[[nn.Module, str, tuple[int, ...]], jax.Array | float]


def absent(module: nn.Module, name: str, shape: tuple[int, ...]) -> float:
    """Nothing is added."""
    return 0.0


def learned(module: nn.Module, name: str, shape: tuple[int, ...]) -> jax.Array:
    """A parameter of `shape`, zero at first, ready to add to (B, L, *shape)."""
    offset = module.param(name, nn.initializers.zeros, shape)
    return offset[None, None]
