"""Blocks one after another: unrolled, or one block scanned over its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.network.block import NOTHING, Block, Given
from transformer.network.kv_cache import Cache, Memory
from transformer.network.masks import Tokens
from transformer.network.precision import CONTRACTED

# What the backward pass finds saved and what it computes again: named policies, each a
# function of the block's class. Less memory for more arithmetic, downward.
Remat = Callable[[type[nn.Module]], Any]
_contracted = jax.checkpoint_policies.save_only_these_names(CONTRACTED)
REMAT: dict[str, Remat] = {
    "none": lambda block: block,
    "products": lambda block: nn.remat(
        block,
        policy=jax.checkpoint_policies.save_from_both_policies(
            jax.checkpoint_policies.dots_saveable, _contracted
        ),
        prevent_cse=False,
    ),
    "weight_products": lambda block: nn.remat(
        block, policy=_contracted, prevent_cse=False
    ),
    "all": lambda block: nn.remat(block, prevent_cse=False),
}

MakeBlock = Callable[[Any, int], Any]

# Collections in which layers tell of themselves: what they computed on the way, and
# whom a mixture's router chose.
KEPT = ("intermediates", "routing")


class Unrolled(nn.Module):
    """`depth` blocks, each compiled for itself: fastest on a CPU, and each layer may
    differ. make_block(remat(block), layer) makes the block of a layer."""

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        block = self.remat(self.block)
        self.layers = [self.make_block(block, i) for i in range(self.depth)]

    def __call__(
        self, x_BLD: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """(B, L, D) to the same; the residual stream behind each block is kept in the
        collection `intermediates`, where that is asked for."""
        for layer in self.layers:
            x_BLD = layer(x_BLD, tokens, given)
            self.sow("intermediates", "stream_BLD", x_BLD)
        return x_BLD

    def extend(
        self,
        x_BLD: jax.Array,
        caches: list[Any],
        tokens: Tokens,
        given: Given = NOTHING,
    ) -> tuple[jax.Array, list[Any]]:
        """The next tokens of each row, through every layer's cache."""
        extended = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x_BLD, cache = layer.extend(x_BLD, cache, tokens, given)
            extended.append(cache)
        return x_BLD, extended

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> list[Any]:
        blocks = [self.make_block(self.block, i) for i in range(self.depth)]
        return [block.empty_cache(*arguments) for block in blocks]

    def remember(self, memory: Memory) -> list[Cache]:
        """What every layer of blocks that read remembers of the memory."""
        return [layer.remember(memory) for layer in self.layers]


class Scanned(nn.Module):
    """`depth` equal blocks as one, scanned: its parameters have a leading dimension N.
    Compiles once whatever the depth, for accelerators and deep stacks."""

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        layers = {
            "variable_axes": {"params": 0, **dict.fromkeys(KEPT, 0)},
            "split_rngs": {"params": True},
            "length": self.depth,
        }
        whole = nn.broadcast
        self.layers = nn.scan(
            _Layer,
            methods={
                "__call__": {**layers, "in_axes": (whole, whole)},
                "extend": {**layers, "in_axes": (0, whole, whole)},
                "remember": {**layers, "in_axes": whole},
            },
        )(self.make_block, self.remat, self.block)

    def __call__(
        self, x_BLD: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """As `Unrolled`; intermediates have the leading dimension N too."""
        x_BLD, _ = self.layers(x_BLD, tokens, given)
        return x_BLD

    def extend(
        self, x_BLD: jax.Array, caches: Any, tokens: Tokens, given: Given = NOTHING
    ) -> tuple[jax.Array, Any]:
        """As `Unrolled`; the caches are one, with the leading dimension N."""
        return self.layers.extend(x_BLD, caches, tokens, given)

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Any:
        cache = self.make_block(self.block, 0).empty_cache(*arguments)
        return jax.tree.map(lambda a: jnp.stack([a] * self.depth), cache)

    def remember(self, memory: Memory) -> Cache:
        """As `Unrolled`, with the leading dimension N."""
        return self.layers.remember(None, memory)[1]


class _Layer(nn.Module):
    """A block in the form that `nn.scan` takes: carry in, (carry, output) out."""

    make_block: MakeBlock
    remat: Remat
    kind: type[nn.Module]

    def setup(self) -> None:
        self.block = self.make_block(self.remat(self.kind), 0)

    def __call__(
        self, x_BLD: jax.Array, tokens: Tokens, given: Given
    ) -> tuple[jax.Array, None]:
        x_BLD = self.block(x_BLD, tokens, given)
        self.sow("intermediates", "stream_BLD", x_BLD)
        return x_BLD, None

    def extend(
        self, x_BLD: jax.Array, cache: Any, tokens: Tokens, given: Given
    ) -> tuple[jax.Array, Any]:
        return self.block.extend(x_BLD, cache, tokens, given)

    def remember(self, carry: None, memory: Memory) -> tuple[None, Any]:
        return carry, self.block.remember(memory)


def scanned(params: dict[str, Any]) -> dict[str, Any]:
    """An unrolled stack's parameters in the shape of a scanned one's."""
    layers = [params[f"layers_{i}"] for i in range(len(params))]
    return {"layers": {"block": jax.tree.map(lambda *a: jnp.stack(a), *layers)}}
