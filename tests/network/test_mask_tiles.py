"""Counts and blocks from bounds of tiles equal those of the whole matrix, and need
neither its memory nor its time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from transformer.network import mask_tiles, masks
from transformer.network.masks import Mask

LONG = 131_072


def random_mask(rng: np.random.Generator, depth: int = 2) -> Mask:
    """A value of the algebra: a rule, or two masks joined."""
    if depth and rng.random() < 0.7:
        a, b = (random_mask(rng, depth - 1) for _ in range(2))
        return a & b if rng.random() < 0.6 else a | b
    few = int(rng.integers(0, 12))
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 4)))
    layout = rng.integers(0, 2, rng.integers(1, 6, 2)).tolist()
    rules = [
        masks.full(),
        masks.causal(),
        masks.segments(),
        masks.padding(),
        masks.window(few, int(rng.integers(0, 9))),
        masks.prefix(few),
        masks.global_tokens(few),
        masks.strided(few + 1),
        masks.dilated(few // 4, 3),
        masks.block_sparse(layout, few + 1),
        masks.neighborhood(shape, int(rng.integers(0, 3))),
        Mask(lambda q, k, n: (q.index_BL * k.index_BL) % n == 0, (few + 2,)),
    ]
    return rules[rng.integers(len(rules))]


def bounds(mask: Mask, queries: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole matrices: of one document, and where all keys are padding."""
    return tuple(
        np.asarray(mask.pairs(range(queries), range(keys), same_segment=same))
        for same in (True, False)
    )


@pytest.mark.parametrize("side", [1, 3, 4, 256])
def test_blocks_and_counts_equal_those_of_the_matrix(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random masks of the algebra, sizes and blocks, never made whole."""
    monkeypatch.setattr(mask_tiles, "SIDE", side)
    monkeypatch.setattr(masks, "MAX_ENTRIES", 0)
    rng = np.random.default_rng(side)
    for _ in range(150):
        mask = random_mask(rng)
        queries, keys, query_block, key_block = (int(n) for n in rng.integers(1, 50, 4))
        above, below = bounds(mask, queries, keys)
        at = range(0, queries, query_block), range(0, keys, key_block)

        def blocks(matrix: np.ndarray, join: np.ufunc, at: tuple = at) -> np.ndarray:
            rows = join.reduceat(matrix, list(at[0]), axis=0)
            return join.reduceat(rows, list(at[1]), axis=1)

        got = mask.blocks(queries, keys, query_block=query_block, key_block=key_block)
        expected = blocks(above, np.logical_or), blocks(below, np.logical_and)
        np.testing.assert_array_equal(got.computed, expected[0], err_msg=repr(mask))
        np.testing.assert_array_equal(got.full, expected[1], err_msg=repr(mask))
        assert mask.num_scores(queries, keys) == above.sum(), mask
        square = mask.blocks(queries, keys, query_block=7, key_block=7).computed
        dense = np.kron(square, np.ones((7, 7), int))[:queries, :keys].sum()
        assert mask.num_scores(queries, keys, block=7) == dense, mask


def test_long_masks_are_counted_in_a_second() -> None:
    """At 131,072 tokens: exact counts by formula, each in under a second, blocks too.

    The matrix has 1.7e10 entries: minutes, and 17 GB.
    """
    near, layout = LONG - 999, np.tri(1024, dtype=int) - np.tri(1024, k=-3, dtype=int)
    window = 1000 * near + 999 * 1000 // 2
    cases = {
        masks.causal(): LONG * (LONG + 1) // 2,
        masks.causal() & masks.segments(): LONG * (LONG + 1) // 2,
        masks.causal() & masks.window(999): window,
        masks.prefix(1000) | masks.causal(): LONG * (LONG + 1) // 2 + 999 * 1000 // 2,
        masks.causal() & masks.strided(32): sum(n // 32 + 1 for n in range(LONG)),
        masks.block_sparse(layout.tolist(), 128): int(layout.sum()) * 128 * 128,
        masks.neighborhood((256, 512), 3): (256 * 7 - 12) * (512 * 7 - 12),
        masks.full(): LONG * LONG,
    }
    for mask, expected in cases.items():
        start = time.process_time()
        assert mask.num_scores(LONG) == expected
        blocks = mask.blocks(LONG, LONG, query_block=256, key_block=256)
        assert time.process_time() - start < 1.0
        assert blocks.computed.sum() * 256 * 256 >= expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (masks.causal() & masks.segments(), masks.causal()),
        (masks.segments(), masks.full()),
        (masks.padding() & masks.window(3), masks.window(3)),
        (masks.causal() | masks.segments(), masks.full()),
        (masks.prefix(2) | masks.causal(), masks.prefix(2) | masks.causal()),
    ],
    ids=repr,
)
def test_one_segment_needs_no_segments(mask: Mask, expected: Mask) -> None:
    assert mask.one_segment() == expected
    np.testing.assert_array_equal(mask.array(9), expected.array(9))
