"""Stacks of blocks: unrolled, or those of a period scanned over its repetitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from types import FunctionType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.block import UNCONDITIONED, Block, Conditioning
from transformer.network.kv_cache import KVCache, Memory
from transformer.network.masks import TokenPositions
from transformer.network.precision import ATTENTION, LINEAR_OUTPUT

# Which activations the backward pass saves and which it recomputes: named policies,
# each a function of the block's class. From top to bottom less memory and more
# arithmetic. prevent_cse: where forward and backward pass are one computation, not two
# loops, XLA finds what is there twice and computes it once, unless it is kept apart.
Remat = Callable[..., Any]
_linear_outputs = jax.checkpoint_policies.save_only_these_names(LINEAR_OUTPUT)
_products = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, _linear_outputs
)
_attention = jax.checkpoint_policies.save_only_these_names(ATTENTION)
REMAT: dict[str, Remat] = {
    "none": lambda block, *, prevent_cse: block,
    "products": partial(nn.remat, policy=_products),
    "weight_products": partial(nn.remat, policy=_linear_outputs),
    "attention": partial(nn.remat, policy=_attention),
    "all": nn.remat,
}

# make_block(block class, layer) makes the block of a layer, counted from 0.
MakeBlock = Callable[[Any, int], Any]

# Collections in which layers sow: intermediate activations, and the choices of a
# mixture's router. `axes.sown_arrays` collects them over the layers.
SOWN_COLLECTIONS = ("intermediates", "routing")


class UnrolledStack(nn.Module):
    """`depth` blocks, each compiled separately: the fastest on a CPU, and layers may
    differ. make_block(block class, layer) makes the block of a layer."""

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        block = self.remat(self.block, prevent_cse=True)
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


class Section(NamedTuple):
    """Consecutive layers from `start`: `period` blocks, the same `count` times."""

    start: int
    period: int
    count: int


def sections(kinds: Sequence[Any]) -> list[Section]:
    """Layers of these kinds, cut so that the fewest blocks are compiled: the kinds of
    Gemma 3's 26 layers, five local ones and a global one by turns, are 4 periods of 6
    blocks and a rest of 2."""
    depth, best = len(kinds), None
    for period in range(1, depth // 2 + 1):
        for start in range(depth - 2 * period + 1):
            end = start + period
            while end < depth and kinds[end] == kinds[end - period]:
                end += 1
            count = (end - start) // period
            found = (1 - count) * period, start, period
            best = min(found, best or found)
    if best is None or best[0] == 0:
        return [Section(0, depth, 1)] if depth else []
    saved, start, period = best
    count = 1 - saved // period
    end = start + count * period
    lead, rest = Section(0, start, 1), Section(end, depth - end, 1)
    found = [lead, Section(start, period, count), rest]
    return [section for section in found if section.period]


def repeats(kinds: Sequence[Any]) -> bool:
    """Whether layers of these kinds can be a `ScannedStack`."""
    found = sections(kinds)
    return _is_uniform(found) or any(section.count > 1 for section in found)


def block_kinds(make_block: MakeBlock, block: type[nn.Module], depth: int) -> list[int]:
    """The first layer whose block equals that of each layer."""
    kinds: list[int] = []
    first: dict[int, Any] = {}
    for layer in range(depth):
        made = make_block(block, layer)
        equal = (other for other, one in first.items() if _equivalent(one, made))
        kinds.append(next(equal, layer))
        first.setdefault(kinds[-1], made)
    return kinds


class ScannedStack(nn.Module):
    """`depth` blocks as scans over the repetitions of their `sections`: parameters have
    a leading dimension N, and the program does not grow with it. For accelerators and
    deep stacks; on a CPU, XLA compiles one kernel for unrolled layers that are equal.

    Equal blocks are one scan, `layers/block`; blocks that differ by period, such as
    local and global attention, one for each section, `sections_0/block_3`. ValueError
    where no block repeats.
    """

    depth: int
    make_block: MakeBlock
    remat: Remat = REMAT["none"]
    block: type[nn.Module] = Block

    def setup(self) -> None:
        cuts = self._sections()
        if not _is_uniform(cuts) and all(one.count == 1 for one in cuts):
            raise ValueError(
                "ScannedStack: expected make_block to make equal blocks, or blocks "
                f"that repeat, got {self.depth} of which none does; use "
                "stack.UnrolledStack"
            )
        if _is_uniform(cuts):
            self.layers = self._scan(cuts[0], alone=True)
        else:
            self.sections = [self._scan(section, alone=False) for section in cuts]

    @nn.nowrap
    def _sections(self) -> list[Section]:
        return sections(block_kinds(self.make_block, self.block, self.depth))

    @nn.nowrap
    def _scan(self, section: Section, *, alone: bool) -> Any:
        layers = {
            "variable_axes": {"params": 0, **dict.fromkeys(SOWN_COLLECTIONS, 0)},
            "split_rngs": {"params": True},
            "length": section.count,
            # No loop of what is there once.
            "unroll": section.count == 1,
        }
        same = nn.broadcast
        return nn.scan(
            _Period,
            methods={
                "__call__": {**layers, "in_axes": (same, same)},
                "decode": {**layers, "in_axes": (0, same, same)},
                "cache_memory": {**layers, "in_axes": same},
            },
        )(self.make_block, self.remat, self.block, section, alone)

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """As `UnrolledStack`; what layers sow has the leading dimension N."""
        for scan in self._scans():
            x_BLD, _ = scan(x_BLD, tokens, conditioning)
        return x_BLD

    def _scans(self) -> list[Any]:
        return self.sections if hasattr(self, "sections") else [self.layers]

    def decode(
        self,
        x_BLD: jax.Array,
        caches: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, Any]:
        """As `UnrolledStack`; the caches are those of `empty_cache`."""
        new = []
        for scan, cache in zip(self._scans(), _by_section(caches), strict=True):
            x_BLD, cache = scan.decode(x_BLD, cache, tokens, conditioning)
            new.append(cache)
        return x_BLD, new if isinstance(caches, list) else new[0][0]

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Any:
        """As `Attention.empty_cache`, with the leading dimension N: one of equal
        blocks, or a list of one for each block of a period for each section."""
        cuts = self._sections()

        def repeat(section: Section, layer: int) -> Any:
            cache = self.make_block(self.block, layer).empty_cache(*arguments)
            return jax.tree.map(lambda a: jnp.stack([a] * section.count), cache)

        if _is_uniform(cuts):
            return repeat(cuts[0], 0)
        return [
            [repeat(section, section.start + i) for i in range(section.period)]
            for section in cuts
        ]

    def cache_memory(self, memory: Memory) -> Any:
        """As `UnrolledStack`, in the form of `empty_cache`."""
        memories = [scan.cache_memory(None, memory)[1] for scan in self._scans()]
        return memories if hasattr(self, "sections") else memories[0][0]

    @nn.nowrap
    def unroll(self) -> UnrolledStack:
        """The same blocks unrolled; `unstack_layer_params` and `unstack_cache` give
        its parameters and caches."""
        return UnrolledStack(self.depth, self.make_block, self.remat, self.block)


def _is_uniform(cuts: list[Section]) -> bool:
    return len(cuts) == 1 and cuts[0].period == 1


def _by_section(caches: Any) -> list[list[Any]]:
    """Of equal blocks too: one section of one block."""
    return caches if isinstance(caches, list) else [[caches]]


class _Period(nn.Module):
    """The blocks of a section's period, in the form of `nn.scan`: carry in, (carry,
    output) out. alone: `block` is one, not a list."""

    make_block: MakeBlock
    remat: Remat
    kind: type[nn.Module]
    section: Section
    alone: bool

    def setup(self) -> None:
        start, period, count = self.section
        kind = self.remat(self.kind, prevent_cse=count == 1)
        blocks = [self.make_block(kind, start + i) for i in range(period)]
        self.block = blocks[0] if self.alone else blocks

    def _blocks(self) -> list[Any]:
        return [self.block] if self.alone else self.block

    def __call__(
        self, x_BLD: jax.Array, tokens: TokenPositions, conditioning: Conditioning
    ) -> tuple[jax.Array, None]:
        for block in self._blocks():
            x_BLD = block(x_BLD, tokens, conditioning)
            self.sow("intermediates", "stream_BLD", x_BLD)
        return x_BLD, None

    def decode(
        self,
        x_BLD: jax.Array,
        caches: list[Any],
        tokens: TokenPositions,
        conditioning: Conditioning,
    ) -> tuple[jax.Array, list[Any]]:
        new = []
        for block, cache in zip(self._blocks(), caches, strict=True):
            x_BLD, cache = block.decode(x_BLD, cache, tokens, conditioning)
            new.append(cache)
        return x_BLD, new

    def cache_memory(self, carry: None, memory: Memory) -> tuple[None, list[Any]]:
        return carry, [block.cache_memory(memory) for block in self._blocks()]


def stack_layer_params(
    params: dict[str, Any], cuts: list[Section] | None = None
) -> dict[str, Any]:
    """The parameters of an `UnrolledStack` in the form of a `ScannedStack` of these
    `sections`; of equal layers if None."""
    cuts = cuts or [Section(0, 1, len(params))]

    def join(section: Section, first: int) -> Any:
        numbers = range(first, first + section.period * section.count, section.period)
        layers = [params[f"layers_{number}"] for number in numbers]
        return jax.tree.map(lambda *a: jnp.stack(a), *layers)

    if _is_uniform(cuts):
        return {"layers": {"block": join(cuts[0], 0)}}
    return {
        f"sections_{number}": {
            f"block_{i}": join(section, section.start + i)
            for i in range(section.period)
        }
        for number, section in enumerate(cuts)
    }


def unstack_layer_params(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a `ScannedStack` in the form of an `UnrolledStack`."""
    if "layers" in params:
        layers = unstack_cache(params["layers"]["block"])
    else:
        numbers = range(len(params))
        blocks = [params[f"sections_{number}"] for number in numbers]
        layers = unstack_cache(
            [[one[f"block_{i}"] for i in range(len(one))] for one in blocks]
        )
    return {f"layers_{i}": layer for i, layer in enumerate(layers)}


def unstack_cache(cache: Any) -> list[Any]:
    """The caches of a `ScannedStack` in the form of an `UnrolledStack`."""
    return [
        jax.tree.map(itemgetter(i), block)
        for blocks in _by_section(cache)
        for i in range(jax.tree.leaves(blocks)[0].shape[0])
        for block in blocks
    ]
