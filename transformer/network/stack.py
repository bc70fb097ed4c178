"""Stacks of blocks: unrolled, or one block scanned over its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from types import FunctionType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.block import UNCONDITIONED, Block, Conditioning
from transformer.network.kv_cache import KVCache, Memory
from transformer.network.masks import TokenPositions
from transformer.network.precision import LINEAR_OUTPUT

# Which activations the backward pass saves and which it recomputes: named policies,
# each a function of the block's class. From top to bottom less memory and more
# arithmetic.
Remat = Callable[[type[nn.Module]], Any]
_linear_outputs = jax.checkpoint_policies.save_only_these_names(LINEAR_OUTPUT)
REMAT: dict[str, Remat] = {
    "none": lambda block: block,
    "products": lambda block: nn.remat(
        block,
        policy=jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_saveable, _linear_outputs
        ),
        prevent_cse=False,
    ),
    "weight_products": lambda block: nn.remat(
        block, policy=_linear_outputs, prevent_cse=False
    ),
    "all": lambda block: nn.remat(block, prevent_cse=False),
}

# make_block(block class, layer) makes the block of a layer, counted from 0.
MakeBlock = Callable[[Any, int], Any]

# Collections in which layers sow: intermediate activations, and the choices of a
# mixture's router. `axes.sown_arrays` collects them over the layers.
SOWN_COLLECTIONS = ("intermediates", "routing")


class UnrolledStack(nn.Module):
    """`depth` blocks, each compiled separately: the fastest on a CPU, and layers may
    differ. make_block(remat(block), layer) makes the block of a layer."""

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        block = self.remat(self.block)
        self.layers = [self.make_block(block, i) for i in range(self.depth)]

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """(B, L, D) to (B, L, D). Sows the residual stream after each block as
        `stream_BLD` in `intermediates`."""
        for layer in self.layers:
            x_BLD = layer(x_BLD, tokens, conditioning)
            self.sow("intermediates", "stream_BLD", x_BLD)
        return x_BLD

    def decode(
        self,
        x_BLD: jax.Array,
        caches: list[Any],
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, list[Any]]:
        """The next tokens of each row; returns their features and every layer's new
        cache."""
        new = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x_BLD, cache = layer.decode(x_BLD, cache, tokens, conditioning)
            new.append(cache)
        return x_BLD, new

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> list[Any]:
        """As `Attention.empty_cache`, one per layer."""
        blocks = [self.make_block(self.block, i) for i in range(self.depth)]
        return [block.empty_cache(*arguments) for block in blocks]

    def cache_memory(self, memory: Memory) -> list[KVCache]:
        """The memory's keys and values in every layer, for decoder blocks."""
        return [layer.cache_memory(memory) for layer in self.layers]


def _equivalent(a: Any, b: Any) -> bool:
    """Whether two values of a slot are made alike: equal, or modules, partials and
    functions of the same class or code whose parts are equivalent."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equivalent(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equivalent, a, b))
    if isinstance(a, np.ndarray | jax.Array):
        return np.array_equal(a, b)
    if isinstance(a, nn.Module | partial | FunctionType):
        return _equivalent(_parts(a), _parts(b))
    return bool(a == b)


def _parts(a: Any) -> Any:
    if isinstance(a, partial):
        return a.func, a.args, a.keywords
    if isinstance(a, FunctionType):
        cells = [cell.cell_contents for cell in a.__closure__ or ()]
        return a.__code__, a.__defaults__, a.__kwdefaults__, cells
    names = {field.name for field in dataclasses.fields(a)} - {"parent", "name"}
    return {name: getattr(a, name) for name in names}


def first_unequal_layer(
    make_block: MakeBlock, block: type[nn.Module], depth: int
) -> int | None:
    """The first layer whose block differs from that of layer 0; None if all are
    equal."""
    first, *others = (make_block(block, i) for i in range(depth))
    unequal = (i + 1 for i, b in enumerate(others) if not _equivalent(first, b))
    return next(unequal, None)


class ScannedStack(nn.Module):
    """`depth` equal blocks as one scanned block whose parameters have a leading
    dimension N: compile time does not grow with depth. For accelerators and deep
    stacks.

    ValueError where make_block makes another block for one of the layers.
    """

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        layer = first_unequal_layer(self.make_block, self.block, self.depth)
        if layer is not None:
            raise ValueError(
                "ScannedStack: expected make_block to make equal blocks, got another "
                f"for layer {layer} than for layer 0; use stack.UnrolledStack"
            )
        layers = {
            "variable_axes": {"params": 0, **dict.fromkeys(SOWN_COLLECTIONS, 0)},
            "split_rngs": {"params": True},
            "length": self.depth,
        }
        same = nn.broadcast
        self.layers = nn.scan(
            _Layer,
            methods={
                "__call__": {**layers, "in_axes": (same, same)},
                "decode": {**layers, "in_axes": (0, same, same)},
                "cache_memory": {**layers, "in_axes": same},
            },
        )(self.make_block, self.remat, self.block)

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """As `UnrolledStack`; what layers sow has the leading dimension N."""
        x_BLD, _ = self.layers(x_BLD, tokens, conditioning)
        return x_BLD

    def decode(
        self,
        x_BLD: jax.Array,
        caches: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, Any]:
        """As `UnrolledStack`; the caches are one, with the leading dimension N."""
        return self.layers.decode(x_BLD, caches, tokens, conditioning)

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Any:
        """As `Attention.empty_cache`, with the leading dimension N."""
        cache = self.make_block(self.block, 0).empty_cache(*arguments)
        return jax.tree.map(lambda a: jnp.stack([a] * self.depth), cache)

    def cache_memory(self, memory: Memory) -> KVCache:
        """As `UnrolledStack`, with the leading dimension N."""
        return self.layers.cache_memory(None, memory)[1]

    @nn.nowrap
    def unroll(self) -> UnrolledStack:
        """The same blocks unrolled; `unstack_layer_params` and `unstack_cache` give
        its parameters and caches."""
        return UnrolledStack(self.depth, self.make_block, self.remat, self.block)


class _Layer(nn.Module):
    """A block in the form of `nn.scan`: carry in, (carry, output) out."""

    make_block: MakeBlock
    remat: Remat
    kind: type[nn.Module]

    def setup(self) -> None:
        self.block = self.make_block(self.remat(self.kind), 0)

    def __call__(
        self, x_BLD: jax.Array, tokens: TokenPositions, conditioning: Conditioning
    ) -> tuple[jax.Array, None]:
        x_BLD = self.block(x_BLD, tokens, conditioning)
        self.sow("intermediates", "stream_BLD", x_BLD)
        return x_BLD, None

    def decode(
        self,
        x_BLD: jax.Array,
        cache: Any,
        tokens: TokenPositions,
        conditioning: Conditioning,
    ) -> tuple[jax.Array, Any]:
        return self.block.decode(x_BLD, cache, tokens, conditioning)

    def cache_memory(self, carry: None, memory: Memory) -> tuple[None, Any]:
        return carry, self.block.cache_memory(memory)


def stack_layer_params(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an `UnrolledStack` in the form of a `ScannedStack`."""
    layers = [params[f"layers_{i}"] for i in range(len(params))]
    return {"layers": {"block": jax.tree.map(lambda *a: jnp.stack(a), *layers)}}


def unstack_layer_params(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a `ScannedStack` in the form of an `UnrolledStack`."""
    layers = unstack_cache(params["layers"]["block"])
    return {f"layers_{i}": layer for i, layer in enumerate(layers)}


def unstack_cache(cache: Any) -> list[Any]:
    """The caches of a `ScannedStack` in the form of an `UnrolledStack`."""
    depth = jax.tree.leaves(cache)[0].shape[0]
    return [jax.tree.map(itemgetter(i), cache) for i in range(depth)]
