"""Attention masks: which query may attend to which key, as a small algebra.

A mask is a value: `causal() & segments()`, `window(64) | global_tokens(4)`. It can be
plotted, converted to an array, counted, divided into blocks (skipped, computed in full
or in part), and converted to the arguments of `jax.nn.dot_product_attention`. It is
hashable, so a model that has one can be a static argument of `jax.jit`.

In Turner's terms (arXiv 2304.10557, section 3) it selects the non-zero entries of the
N x N attention matrix A; row = query, column = key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checks import at_least

# Of a matrix that is made whole to find its blocks.
MAX_ENTRIES = 1 << 18


class TokenPositions(NamedTuple):
    """The positions of a row's tokens; B = 1 broadcasts to all rows.

    index_BL: int32, index in the row; distances of masks. position_BL: int32, position
    in its document, for positional encodings; differs from the index where a row packs
    several documents. segment_BL: int32, number of the document in the row, from 1; 0
    is padding.
    """

    index_BL: Any
    position_BL: Any
    segment_BL: Any


def indices(count: int) -> jax.Array:
    """0, 1, ... below `count`, int32."""
    if isinstance(count, int):
        return jnp.arange(count, dtype=jnp.int32)
    # Of an exported program: ONNX has no range of an open size.
    return jnp.cumsum(jnp.ones((count,), jnp.int32)) - 1


def single_document(length: int) -> TokenPositions:
    """Positions in rows of one document of `length` tokens each; B = 1."""
    index_BL = indices(length)[None]
    return TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))


def packed(segment_BL: jax.Array, position_BL: jax.Array) -> TokenPositions:
    """Positions in rows of several documents, from the batch's arrays."""
    index_BL = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)[None]
    return TokenPositions(index_BL, position_BL, segment_BL)


def padded(ids_BL: Any, padding: int) -> TokenPositions:
    """Positions in rows of one document each that ends before the row: ids equal to
    `padding` after the last other id are padding."""
    real_BL = jnp.flip(jnp.cumsum(jnp.flip(ids_BL != padding, 1), axis=1) > 0, 1)
    index_BL = jnp.arange(ids_BL.shape[1], dtype=jnp.int32)[None]
    return TokenPositions(index_BL, index_BL, real_BL.astype(jnp.int32))


class BlockMask(NamedTuple):
    """A mask by blocks, for kernels that skip masked blocks.

    computed, full: bool (queries / block, keys / block), numpy: whether any entry of
    the block may be allowed, and whether all are allowed in any batch.
    """

    computed: np.ndarray
    full: np.ndarray


@dataclass(frozen=True)
class Mask:
    """One rule about pairs of tokens, with its arguments.

    rule: function of (queries, keys, *arguments) to bool, where the queries' arrays are
    (B, L, 1) and the keys' (B, 1, M); numpy in, numpy out. max_lookback: the number of
    tokens back that a query can attend to, itself included; None if unbounded.
    """

    rule: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    max_lookback: int | None = None

    def __and__(self, other: Mask) -> Mask:
        bounds = [m.max_lookback for m in (self, other) if m.max_lookback is not None]
        return Mask(_both, (self, other), min(bounds, default=None))

    def __or__(self, other: Mask) -> Mask:
        bounded = [m.max_lookback for m in (self, other) if m.max_lookback is not None]
        return Mask(_either, (self, other), max(bounded) if len(bounded) == 2 else None)

    def __repr__(self) -> str:
        signs = {_both: " & ", _either: " | "}
        name = "" if self.rule in signs else self.rule.__name__.strip("_")
        return f"{name}({signs.get(self.rule, ', ').join(map(repr, self.arguments))})"

    def allowed_pairs(self, queries: TokenPositions, keys: TokenPositions) -> Any:
        """bool (B, L, M): True where the query may attend to the key."""
        q = TokenPositions(*(a[:, :, None] for a in queries))
        k = TokenPositions(*(a[:, None, :] for a in keys))
        return self._of(q, k)

    def _of(self, q: TokenPositions, k: TokenPositions) -> Any:
        return self.rule(q, k, *self.arguments)

    def array(self, queries: int, keys: int | None = None) -> np.ndarray:
        """bool (queries, keys) for one unpadded document, numpy."""
        return self.pairs(range(queries), range(queries if keys is None else keys))

    def pairs(self, q: range, k: range, *, same_segment: bool = True) -> np.ndarray:
        """The pairs in one document, or with all keys in padding: as the algebra has
        no negation, the upper and the lower bound for any segments."""
        q_BL, k_BM = np.asarray(q)[None], np.asarray(k)[None]
        queries = TokenPositions(q_BL, q_BL, np.ones_like(q_BL))
        keys = TokenPositions(k_BM, k_BM, np.full_like(k_BM, same_segment))
        return self.allowed_pairs(queries, keys)[0]

    def one_segment(self) -> Mask:
        """The mask in rows of one document each, without padding: no segments."""
        if self.rule in (_segments, _padding):
            return full()
        if self.rule not in (_both, _either):
            return self
        a, b = (part.one_segment() for part in self.arguments)
        if self.rule is _either:
            return full() if full() in (a, b) else a | b
        return b if a == full() else a if b == full() else a & b

    def num_scores(
        self, queries: int, keys: int | None = None, *, block: int = 1
    ) -> int:
        """The number of scores computed for one row in blocks of `block` x `block`;
        with block 1, the number of allowed entries of the matrix."""
        from transformer.network import mask_tiles

        keys = queries if keys is None else keys
        if block == 1:
            return mask_tiles.num_pairs(self, queries, keys)
        blocks = self.blocks(queries, keys, query_block=block, key_block=block)
        rows = np.minimum(block, queries - block * np.arange(blocks.computed.shape[0]))
        columns = np.minimum(block, keys - block * np.arange(blocks.computed.shape[1]))
        return int(rows @ blocks.computed.astype(np.int64) @ columns)

    def blocks(
        self, queries: int, keys: int, *, query_block: int, key_block: int
    ) -> BlockMask:
        """The blocks to compute and those that need no mask. The whole matrix is made
        only where it has at most `MAX_ENTRIES`; otherwise `mask_tiles` bounds it."""
        edges = np.arange(0, queries, query_block), np.arange(0, keys, key_block)
        if queries * keys > MAX_ENTRIES:
            from transformer.network import mask_tiles

            return BlockMask(*mask_tiles.blocks(self, queries, keys, edges))
        above, below = (
            self.pairs(range(queries), range(keys), same_segment=same)
            for same in (True, False)
        )
        for dimension, edge in enumerate(edges):
            above = np.logical_or.reduceat(above, edge, axis=dimension)
            below = np.logical_and.reduceat(below, edge, axis=dimension)
        return BlockMask(above, below)


def _both(q: TokenPositions, k: TokenPositions, a: Mask, b: Mask) -> Any:
    return a._of(q, k) & b._of(q, k)


def _either(q: TokenPositions, k: TokenPositions, a: Mask, b: Mask) -> Any:
    return a._of(q, k) | b._of(q, k)


def _full(q: TokenPositions, k: TokenPositions) -> Any:
    return (q.index_BL == q.index_BL) & (k.index_BL == k.index_BL)


def full() -> Mask:
    """Each token attends to all tokens."""
    return Mask(_full)


def _causal(q: TokenPositions, k: TokenPositions) -> Any:
    return k.index_BL <= q.index_BL


def causal() -> Mask:
    """Each token attends to itself and to those before it."""
    return Mask(_causal)


def _window(q: TokenPositions, k: TokenPositions, before: int, after: int) -> Any:
    distance = q.index_BL - k.index_BL
    return (distance <= before) & (distance >= -after)


def window(before: int, after: int = 0) -> Mask:
    """Each token attends to itself, `before` tokens before it and `after` after it."""
    at_least("window before", before, 0)
    at_least("window after", after, 0)
    return Mask(_window, (before, after), before + 1)


def _prefix(q: TokenPositions, k: TokenPositions, length: int) -> Any:
    return (k.index_BL < length) & (q.index_BL == q.index_BL)


def prefix(length: int) -> Mask:
    """All attend to the first `length` tokens; `prefix(n) | causal()` is the prefix
    language model of Raffel et al. 2020 (arXiv 1910.10683, figure 4)."""
    return Mask(_prefix, (at_least("prefix length", length, 0),))


def _segments(q: TokenPositions, k: TokenPositions) -> Any:
    return (q.segment_BL == k.segment_BL) & (k.segment_BL != 0)


def segments() -> Mask:
    """Each token attends within its own document; none to padding."""
    return Mask(_segments)


def _padding(q: TokenPositions, k: TokenPositions) -> Any:
    return (k.segment_BL != 0) & (q.index_BL == q.index_BL)


def padding() -> Mask:
    """No token attends to padding."""
    return Mask(_padding)


def _block_sparse(
    q: TokenPositions, k: TokenPositions, layout: tuple, block: int
) -> Any:
    table: Any = np.pad(np.asarray(layout, bool), (0, 1))
    i = (q.index_BL // block).clip(max=table.shape[0] - 1)
    j = (k.index_BL // block).clip(max=table.shape[1] - 1)
    is_jax = isinstance(i, jax.Array) or isinstance(j, jax.Array)
    return (jnp.asarray(table) if is_jax else table)[i, j]


def block_sparse(layout: Sequence[Sequence[int]], block: int) -> Mask:
    """`layout[i][j]`: whether the queries of block i attend to the keys of block j;
    none outside the layout (Child et al. 2019, arXiv 1904.10509; Zaheer et al. 2020,
    arXiv 2007.14062)."""
    at_least("block", block, 1)
    rows = tuple(tuple(bool(cell) for cell in row) for row in layout)
    if len({len(row) for row in rows}) != 1:
        lengths = [len(row) for row in rows]
        raise ValueError(f"layout: expected rows of one length, got lengths {lengths}")
    return Mask(_block_sparse, (rows, block))


def _strided(q: TokenPositions, k: TokenPositions, stride: int) -> Any:
    return (q.index_BL - k.index_BL) % stride == 0


def strided(stride: int) -> Mask:
    """Each token attends to every `stride`-th one from itself (Child et al. 2019)."""
    return Mask(_strided, (at_least("stride", stride, 1),))


def dilated(before: int, dilation: int) -> Mask:
    """A window of every `dilation`-th token: the token itself and `before` earlier ones
    (Longformer, Beltagy et al. 2020, arXiv 2004.05150)."""
    return window(before * dilation) & strided(dilation)


def _global_tokens(q: TokenPositions, k: TokenPositions, count: int) -> Any:
    return (q.index_BL < count) | (k.index_BL < count)


def global_tokens(count: int) -> Mask:
    """The first `count` tokens attend to all and all to them (Longformer)."""
    return Mask(_global_tokens, (at_least("global tokens", count, 0),))


def _neighborhood(
    q: TokenPositions, k: TokenPositions, shape: tuple[int, ...], radius: int
) -> Any:
    near, stride = _full(q, k), math.prod(shape)
    for size in shape:
        stride //= size
        distance = (q.index_BL // stride) % size - (k.index_BL // stride) % size
        near = near & (distance <= radius) & (distance >= -radius)
    return near


def neighborhood(shape: Sequence[int], radius: int) -> Mask:
    """Tokens on a grid (rows x columns, or frames x rows x columns, last fastest)
    attend to those at most `radius` away along every dimension."""
    return Mask(_neighborhood, (tuple(shape), at_least("radius", radius, 0)))


def to_jax_kwargs(
    mask: Mask, queries: TokenPositions, keys: TokenPositions
) -> dict[str, Any]:
    """`mask` as arguments of `jax.nn.dot_product_attention`.

    `is_causal` and `local_window_size` where they suffice (then no mask array is made);
    otherwise `mask`, bool (B, 1, L, M). The tokens must be whole rows in order (index
    0, 1, ...), as they are outside cached decoding.
    """
    parts = conjuncts(mask)
    rules = [part.rule for part in parts]
    if len(set(rules)) == len(rules) and set(rules) <= {_full, _causal, _window}:
        named = dict(zip(rules, parts, strict=True))
        out: dict[str, Any] = {"is_causal": _causal in named}
        if _window in named:
            before, after = named[_window].arguments
            out["local_window_size"] = (before, 0 if out["is_causal"] else after)
        return out
    return {"mask": jnp.asarray(mask.allowed_pairs(queries, keys))[:, None]}


def conjuncts(mask: Mask) -> list[Mask]:
    """The masks that `mask` joins with &."""
    if mask.rule is _both:
        return [part for side in mask.arguments for part in conjuncts(side)]
    return [mask]


def plot(mask: Mask, queries: int, keys: int | None = None, *, axes: Any = None) -> Any:
    """Plot the mask, queries downward, keys to the right; returns the matplotlib
    axes."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(3, 3)).add_subplot() if axes is None else axes
    axes.imshow(mask.array(queries, keys), cmap="Greys", vmin=0, vmax=1.4)
    axes.set(title=repr(mask), xlabel="key", ylabel="query")
    return axes
