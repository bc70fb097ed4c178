"""Masks by rectangular tiles: which pairs a rule allows, without the L x M matrix.

Each rule gives every tile an id, from bounds of its queries and keys: 0 where it allows
no pair, 1 where it allows all pairs, and n > 1 for the pattern n of allowed pairs.
Tiles of one size and one id have the same pattern, so that one of them is computed pair
by pair for all. A causal mask of 131,072 tokens has one such tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from transformer.network import masks
from transformer.network.masks import Mask, TokenPositions

# Tokens of a tile's side, at most.
SIDE = 256
NONE, ALL = 0, 1


class Tiles(NamedTuple):
    """A grid of N x M tiles, int64.

    query [N, 1], key [1, M]: the first query and the first key of each tile. queries
    [N, 1], keys [1, M]: its number of queries and of keys. same_segment: whether all
    tokens are of one document (the upper bound of a mask), or all keys are padding (the
    lower bound: the algebra has no negation).
    """

    query: np.ndarray
    key: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    same_segment: bool

    @property
    def distance(self) -> np.ndarray:
        """First query - first key, [N, M]."""
        return self.query - self.key

    @property
    def first_distance(self) -> np.ndarray:
        """The least query - key in each tile, [N, M]."""
        return self.distance - self.keys + 1

    @property
    def last_distance(self) -> np.ndarray:
        """The greatest query - key in each tile, [N, M]."""
        return self.distance + self.queries - 1


class TileRule(NamedTuple):
    """A rule of a mask by tiles. Both functions also take the arguments of the rule.

    ids(tiles, ...): the id of each tile, int64 [N, M]. cuts(length, ...): where tiles
    must begin, besides 0, for the ids to be right.
    """

    ids: Callable[..., np.ndarray]
    cuts: Callable[..., Any] = lambda length, *arguments: ()


def multiples(length: int, step: int) -> np.ndarray:
    """0, step, 2 step, ... below `length`."""
    return np.arange(0, length, step)


def edges(length: int, cuts: Iterable[Any]) -> np.ndarray:
    """Where tiles begin: at all `cuts` below `length`, SIDE apart at most."""
    found = np.unique(np.concatenate([multiples(length, SIDE), *cuts]))
    return found[(found >= 0) & (found < length)].astype(np.int64)


def grid(query: np.ndarray, key: np.ndarray, queries: int, keys: int) -> Tiles:
    """The tiles of a (queries, keys) matrix of one document that begin at these."""
    heights, widths = np.diff(query, append=queries), np.diff(key, append=keys)
    return Tiles(query[:, None], key[None], heights[:, None], widths[None], True)


def ids_of_bounds(
    none: np.ndarray, every: np.ndarray, pattern: np.ndarray
) -> np.ndarray:
    """Tile ids: 0 where `none`, 1 where `every`, elsewhere `pattern`, any integers,
    shifted to 2 and more."""
    least = pattern.min(initial=0)
    return np.where(none, NONE, np.where(every, ALL, 2 + pattern - least))


def all_or_none(tiles: Tiles, allowed: Any) -> np.ndarray:
    """Tile ids of a rule that allows all pairs of a tile where `allowed`, none else."""
    return np.where(allowed, ALL, NONE) + 0 * tiles.distance


def all_different(tiles: Tiles, *arguments: Any) -> np.ndarray:
    """Tile ids of a rule of which nothing is known: each tile has its own pattern."""
    return 2 + np.arange(tiles.distance.size).reshape(tiles.distance.shape)


def in_band(tiles: Tiles, before: float, after: float) -> np.ndarray:
    """Tile ids of the rule -after <= query - key <= before."""
    first, last = tiles.first_distance, tiles.last_distance
    none = (first > before) | (last < -after)
    return ids_of_bounds(none, (first >= -after) & (last <= before), tiles.distance)


def on_grid(tiles: Tiles, shape: tuple[int, ...], radius: int) -> np.ndarray:
    """Tile ids of `masks.neighborhood`; no tile crosses the end of the grid."""
    none: Any = False
    every: Any = True
    pattern = np.zeros((1, 1), np.int64)
    stride = int(np.prod(shape))
    for extent in shape:
        outer, stride = stride, stride // extent
        (q, q_low, q_high, q_wraps), (k, k_low, k_high, k_wraps) = (
            _coordinates(first, count, outer, stride)
            for first, count in ((tiles.query, tiles.queries), (tiles.key, tiles.keys))
        )
        least, most = q_low - k_high, q_high - k_low
        none = none | (least > radius) | (most < -radius)
        every = every & (least >= -radius) & (most <= radius)
        # Where neither side wraps, only the difference matters.
        digit = np.where(q_wraps | k_wraps, extent + q * extent + k, q - k)
        pattern = pattern * (2 + extent) * extent + digit + extent
    return ids_of_bounds(none, every, pattern)


def _coordinates(
    first: np.ndarray, count: np.ndarray, outer: int, stride: int
) -> tuple[np.ndarray, ...]:
    """Along one dimension of a grid: the coordinate of each tile's first token, the
    least and the greatest of its tokens, and whether they wrap around."""
    last = first + count - 1
    at, end = first % outer // stride, last % outer // stride
    wraps = first // outer != last // outer
    high = np.where(wraps, outer // stride - 1, end)
    return at, np.where(wraps, 0, at), high, wraps


def intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Tile ids of `a & b` from those of both."""
    return _join(a, b, neutral=ALL, absorbing=NONE)


def unite(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Tile ids of `a | b` from those of both."""
    return _join(a, b, neutral=NONE, absorbing=ALL)


def _join(a: np.ndarray, b: np.ndarray, *, neutral: int, absorbing: int) -> np.ndarray:
    # Other patterns than those of `a`, so that no id stands for two.
    b = np.where(b > ALL, b + a.max(), b)
    out = np.where(a == neutral, b, a)
    out[(a == absorbing) | (b == absorbing)] = absorbing
    mixed = (a > ALL) & (b > ALL)
    if mixed.any():
        first, second = _renumber(a[mixed]), _renumber(b[mixed])
        pair = first * (second.max() + 1) + second
        out[mixed] = 1 + out.max() + _renumber(pair)
    return out


def _renumber(ids: np.ndarray) -> np.ndarray:
    """The same ids, numbered from 0 without gaps."""
    return np.unique(ids, return_inverse=True)[1].reshape(ids.shape)


def _by_segment(tiles: Tiles) -> np.ndarray:
    return all_or_none(tiles, tiles.same_segment)


BLOCK_SPARSE = masks.block_sparse([[0]], 1).rule


def _layout_cuts(length: int, layout: tuple, block: int) -> np.ndarray:
    return block * np.arange(max(len(layout), len(layout[0])) + 1)


def _layout_ids(tiles: Tiles, layout: tuple, block: int) -> np.ndarray:
    queries, keys = (TokenPositions(a, a, a) for a in (tiles.query, tiles.key))
    return all_or_none(tiles, BLOCK_SPARSE(queries, keys, layout, block))


ANY_RULE = TileRule(all_different)
RULES = {
    masks.full().rule: TileRule(lambda tiles: all_or_none(tiles, True)),
    masks.segments().rule: TileRule(_by_segment),
    masks.padding().rule: TileRule(_by_segment),
    masks.causal().rule: TileRule(lambda tiles: in_band(tiles, np.inf, 0)),
    masks.window(0).rule: TileRule(in_band),
    masks.strided(1).rule: TileRule(lambda tiles, n: 2 + tiles.distance % n),
    masks.prefix(0).rule: TileRule(
        lambda tiles, count: all_or_none(tiles, tiles.key < count),
        lambda length, count: [count],
    ),
    masks.global_tokens(0).rule: TileRule(
        lambda tiles, count: all_or_none(
            tiles, (tiles.query < count) | (tiles.key < count)
        ),
        lambda length, count: [count],
    ),
    BLOCK_SPARSE: TileRule(_layout_ids, _layout_cuts),
    masks.neighborhood([1], 0).rule: TileRule(
        on_grid, lambda length, shape, radius: multiples(length, int(np.prod(shape)))
    ),
}
JOINS = {
    (masks.full() & masks.full()).rule: intersect,
    (masks.full() | masks.full()).rule: unite,
}


def cuts(mask: Mask, length: int) -> list[Any]:
    """Where the rules of a mask need tiles to begin, besides 0."""
    if mask.rule in JOINS:
        return [cut for part in mask.arguments for cut in cuts(part, length)]
    return [RULES.get(mask.rule, ANY_RULE).cuts(length, *mask.arguments)]


def tile_ids(mask: Mask, tiles: Tiles) -> np.ndarray:
    """The id of each tile under a mask, int64 [N, M]."""
    if mask.rule in JOINS:
        return JOINS[mask.rule](*(tile_ids(part, tiles) for part in mask.arguments))
    return RULES.get(mask.rule, ANY_RULE).ids(tiles, *mask.arguments)


def counts(mask: Mask, tiles: Tiles) -> np.ndarray:
    """The number of allowed pairs in each tile, int64 [N, M]."""
    ids = tile_ids(mask, tiles)
    out = tiles.queries * tiles.keys * (ids == ALL)
    mixed = ids > ALL
    if not mixed.any():
        return out
    grids = np.broadcast_arrays(tiles.query, tiles.key, tiles.queries, tiles.keys)
    query, key, queries, keys = (values[mixed] for values in grids)
    kind = (_renumber(ids[mixed]) * (SIDE + 1) + queries) * (SIDE + 1) + keys
    _, first, like = np.unique(kind, return_index=True, return_inverse=True)
    representatives = (a[first].tolist() for a in (query, key, queries, keys))
    found = [
        mask.pairs(
            range(q, q + h), range(k, k + w), same_segment=tiles.same_segment
        ).sum()
        for q, k, h, w in zip(*representatives, strict=True)
    ]
    out[mixed] = np.asarray(found)[like.reshape(-1)]
    return out


def num_pairs(mask: Mask, queries: int, keys: int) -> int:
    """The number of allowed pairs of one document."""
    query, key = (edges(length, cuts(mask, length)) for length in (queries, keys))
    return int(counts(mask, grid(query, key, queries, keys)).sum())


def blocks(
    mask: Mask, queries: int, keys: int, block_edges: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """For blocks that begin at the queries and keys `block_edges`: whether a block has
    an allowed pair, and whether all its pairs are allowed (`computed` and `full` of
    `masks.BlockMask`)."""
    edge = [
        edges(length, [*cuts(mask, length), block])
        for length, block in zip((queries, keys), block_edges, strict=True)
    ]
    tiles = grid(edge[0], edge[1], queries, keys)
    above = counts(mask, tiles)
    below = above
    if mask.one_segment() != mask:
        below = counts(mask, tiles._replace(same_segment=False))
    computed, complete = above > 0, below == tiles.queries * tiles.keys
    for dimension in (0, 1):
        at = np.searchsorted(edge[dimension], block_edges[dimension])
        computed = np.logical_or.reduceat(computed, at, axis=dimension)
        complete = np.logical_and.reduceat(complete, at, axis=dimension)
    return computed, complete
