"""Who may attend to whom: a small algebra of masks.

A mask is a value: `causal() & segments()`, `window(64) | global_tokens(4)`. It can be
drawn, made into an array, counted, divided into blocks that are skipped, computed in
full or computed in part, and lowered to the arguments of the platform's fast attention.
It is hashable, so a model that holds one can be a static argument of `jax.jit`.

In Turner's terms (arXiv 2304.10557, section 3) it says which entries of the N x N
attention matrix A are non-zero; row = query, column = key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Tokens(NamedTuple):
    """Where each token of a row stands; B may be 1 to serve every row alike.

    index_BL: int32, place in the row, what masks measure distances in. position_BL:
    int32, place in its document, what positional encodings see; differs from the index
    where several documents are packed in a row. segment_BL: int32, document within the
    row, from 1; 0 is padding.
    """

    index_BL: Any
    position_BL: Any
    segment_BL: Any


def row(length: int) -> Tokens:
    """Tokens of rows that hold one document of `length` tokens: B is 1."""
    index_BL = jnp.arange(length, dtype=jnp.int32)[None]
    return Tokens(index_BL, index_BL, jnp.ones_like(index_BL))


def packed(segment_BL: jax.Array, position_BL: jax.Array) -> Tokens:
    """Tokens of rows that hold several documents, as `batch` gives them."""
    index_BL = jnp.arange(segment_BL.shape[1], dtype=jnp.int32)[None]
    return Tokens(index_BL, position_BL, segment_BL)


class Blocks(NamedTuple):
    """How a mask looks in blocks, for paths that skip what it hides.

    computed, full: bool (queries / block, keys / block), numpy: whether any entry of
    the block may be allowed, and whether every entry surely is.
    """

    computed: np.ndarray
    full: np.ndarray


@dataclass(frozen=True)
class Mask:
    """One rule about pairs of tokens, with its arguments.

    rule: function of (queries, keys, *arguments) to bool, where the queries' arrays are
    (B, L, 1) and the keys' (B, 1, M); numpy in, numpy out. reach: how many tokens back
    a query can see, itself included; None when there is no bound.
    """

    rule: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    reach: int | None = None

    def __and__(self, other: Mask) -> Mask:
        bounds = [m.reach for m in (self, other) if m.reach is not None]
        return Mask(_both, (self, other), min(bounds, default=None))

    def __or__(self, other: Mask) -> Mask:
        bounded = [m.reach for m in (self, other) if m.reach is not None]
        return Mask(_either, (self, other), max(bounded) if len(bounded) == 2 else None)

    def __repr__(self) -> str:
        signs = {_both: " & ", _either: " | "}
        name = "" if self.rule in signs else self.rule.__name__.strip("_")
        return f"{name}({signs.get(self.rule, ', ').join(map(repr, self.arguments))})"

    def allowed(self, queries: Tokens, keys: Tokens) -> Any:
        """bool (B, L, M): True where the query may attend to the key."""
        q = Tokens(*(a[:, :, None] for a in queries))
        k = Tokens(*(a[:, None, :] for a in keys))
        return self._of(q, k)

    def _of(self, q: Tokens, k: Tokens) -> Any:
        return self.rule(q, k, *self.arguments)

    def array(self, queries: int, keys: int | None = None) -> np.ndarray:
        """bool (queries, keys) for one unpadded document, numpy."""
        return self._bounds(range(queries), range(queries if keys is None else keys))[0]

    def _bounds(self, q: range, k: range) -> tuple[np.ndarray, np.ndarray]:
        """What may be allowed and what surely is, before the segments are known.

        The algebra has no negation, so a rule is monotone in what its parts allow: all
        tokens in one segment bounds it from above, every key in padding from below.
        """
        q_BL, k_BM = np.asarray(q)[None], np.asarray(k)[None]
        queries = Tokens(q_BL, q_BL, np.ones_like(q_BL))
        keys = [Tokens(k_BM, k_BM, f(k_BM)) for f in (np.ones_like, np.zeros_like)]
        above, below = (self.allowed(queries, tokens)[0] for tokens in keys)
        return above, below

    def count(self, queries: int, keys: int | None = None, *, block: int = 1) -> int:
        """How many scores are computed for one row when `block` x `block` ones go
        together; with block 1, how many entries of the matrix are allowed."""
        keys = queries if keys is None else keys
        blocks = self.blocks(queries, keys, query_block=block, key_block=block)
        rows = np.minimum(block, queries - block * np.arange(blocks.computed.shape[0]))
        columns = np.minimum(block, keys - block * np.arange(blocks.computed.shape[1]))
        return int(rows @ blocks.computed.astype(np.int64) @ columns)

    def blocks(
        self, queries: int, keys: int, *, query_block: int, key_block: int
    ) -> Blocks:
        """Which blocks must be computed and which need no mask, row by row of blocks,
        so that the whole matrix is never in memory."""
        edges = np.arange(0, keys, key_block)
        computed, full = [], []
        for start in range(0, queries, query_block):
            rows = range(start, min(start + query_block, queries))
            above, below = self._bounds(rows, range(keys))
            computed.append(np.logical_or.reduceat(above.any(0), edges))
            full.append(np.logical_and.reduceat(below.all(0), edges))
        return Blocks(np.stack(computed), np.stack(full))


def _both(q: Tokens, k: Tokens, a: Mask, b: Mask) -> Any:
    return a._of(q, k) & b._of(q, k)


def _either(q: Tokens, k: Tokens, a: Mask, b: Mask) -> Any:
    return a._of(q, k) | b._of(q, k)


def _everything(q: Tokens, k: Tokens) -> Any:
    return (q.index_BL == q.index_BL) & (k.index_BL == k.index_BL)


def everything() -> Mask:
    """Each token attends to each."""
    return Mask(_everything)


def _causal(q: Tokens, k: Tokens) -> Any:
    return k.index_BL <= q.index_BL


def causal() -> Mask:
    """Each token attends to itself and to those before it."""
    return Mask(_causal)


def _window(q: Tokens, k: Tokens, before: int, after: int) -> Any:
    distance = q.index_BL - k.index_BL
    return (distance <= before) & (distance >= -after)


def window(before: int, after: int = 0) -> Mask:
    """Each token attends to itself, `before` tokens before it and `after` after it."""
    _at_least("window before", before, 0)
    _at_least("window after", after, 0)
    return Mask(_window, (before, after), before + 1)


def _prefix(q: Tokens, k: Tokens, length: int) -> Any:
    return (k.index_BL < length) & (q.index_BL == q.index_BL)


def prefix(length: int) -> Mask:
    """All attend to the first `length` tokens; `prefix(n) | causal()` is the prefix
    language model of Raffel et al. 2020 (arXiv 1910.10683, figure 4)."""
    return Mask(_prefix, (_at_least("prefix length", length, 0),))


def _segments(q: Tokens, k: Tokens) -> Any:
    return (q.segment_BL == k.segment_BL) & (k.segment_BL != 0)


def segments() -> Mask:
    """Each token attends within its own document; none to padding."""
    return Mask(_segments)


def _padding(q: Tokens, k: Tokens) -> Any:
    return (k.segment_BL != 0) & (q.index_BL == q.index_BL)


def padding() -> Mask:
    """No token attends to padding."""
    return Mask(_padding)


def _block_sparse(q: Tokens, k: Tokens, layout: tuple, block: int) -> Any:
    table = np.pad(np.asarray(layout, bool), (0, 1))
    i = (q.index_BL // block).clip(max=table.shape[0] - 1)
    j = (k.index_BL // block).clip(max=table.shape[1] - 1)
    traced = isinstance(i, jax.Array) or isinstance(j, jax.Array)
    return (jnp.asarray(table) if traced else table)[i, j]


def block_sparse(layout: Sequence[Sequence[int]], block: int) -> Mask:
    """`layout[i][j]`: whether queries i*block.. attend to keys j*block..; nothing does
    beyond it (Child et al. 2019, arXiv 1904.10509; Zaheer et al. 2020, 2007.14062)."""
    _at_least("block", block, 1)
    rows = tuple(tuple(bool(cell) for cell in row) for row in layout)
    if len({len(row) for row in rows}) != 1:
        lengths = [len(row) for row in rows]
        raise ValueError(f"layout: expected rows of one length, got lengths {lengths}")
    return Mask(_block_sparse, (rows, block))


def _strided(q: Tokens, k: Tokens, stride: int) -> Any:
    return (q.index_BL - k.index_BL) % stride == 0


def strided(stride: int) -> Mask:
    """Each token attends to every `stride`-th one from itself (Child et al. 2019)."""
    return Mask(_strided, (_at_least("stride", stride, 1),))


def dilated(before: int, dilation: int) -> Mask:
    """A window over every `dilation`-th token: `before` of them and the token itself
    (Longformer, Beltagy et al. 2020, arXiv 2004.05150)."""
    return window(before * dilation) & strided(dilation)


def _global_tokens(q: Tokens, k: Tokens, count: int) -> Any:
    return (q.index_BL < count) | (k.index_BL < count)


def global_tokens(count: int) -> Mask:
    """The first `count` tokens attend to all and all to them (Longformer)."""
    return Mask(_global_tokens, (_at_least("global tokens", count, 0),))


def _neighbourhood(q: Tokens, k: Tokens, shape: tuple[int, ...], radius: int) -> Any:
    near, stride = _everything(q, k), math.prod(shape)
    for size in shape:
        stride //= size
        distance = (q.index_BL // stride) % size - (k.index_BL // stride) % size
        near = near & (distance <= radius) & (distance >= -radius)
    return near


def neighbourhood(shape: Sequence[int], radius: int) -> Mask:
    """Tokens on a grid (rows x columns, or frames x rows x columns, last fastest)
    attend to those at most `radius` away along every dimension."""
    return Mask(_neighbourhood, (tuple(shape), _at_least("radius", radius, 0)))


def _at_least(what: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"{what}: expected at least {least}, got {value}")
    return value


def lowered(mask: Mask, queries: Tokens, keys: Tokens) -> dict[str, Any]:
    """`mask` as arguments of `jax.nn.dot_product_attention`.

    `is_causal` and `local_window_size` where they say it all (no array of scores is
    masked then); otherwise `mask`, bool (B, 1, L, M). The tokens must be whole rows in
    order (index 0, 1, ...), as they are outside cached decoding.
    """
    parts = _conjuncts(mask)
    rules = [part.rule for part in parts]
    if len(set(rules)) == len(rules) and set(rules) <= {_everything, _causal, _window}:
        named = dict(zip(rules, parts, strict=True))
        out: dict[str, Any] = {"is_causal": _causal in named}
        if _window in named:
            before, after = named[_window].arguments
            out["local_window_size"] = (before, 0 if out["is_causal"] else after)
        return out
    return {"mask": jnp.asarray(mask.allowed(queries, keys))[:, None]}


def _conjuncts(mask: Mask) -> list[Mask]:
    if mask.rule is _both:
        return [part for side in mask.arguments for part in _conjuncts(side)]
    return [mask]


def draw(mask: Mask, queries: int, keys: int | None = None, *, axes: Any = None) -> Any:
    """A picture of the mask, queries downward, keys to the right; returns the
    matplotlib axes it was drawn on."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(3, 3)).add_subplot() if axes is None else axes
    axes.imshow(mask.array(queries, keys), cmap="Greys", vmin=0, vmax=1.4)
    axes.set(title=repr(mask), xlabel="key", ylabel="query")
    return axes
