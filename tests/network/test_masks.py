"""Every mask equals its matrix of 0 and 1, written out here, in every form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.network import masks
from transformer.network.masks import Mask, TokenPositions

LITERAL = {
    "full": (masks.full(), "111 111 111"),
    "causal": (masks.causal(), "1000 1100 1110 1111"),
    "window": (masks.window(1), "1000 1100 0110 0011"),
    "window both ways": (masks.window(1, 2), "11100 11110 01111 00111 00011"),
    "window ahead": (masks.window(0, 1), "1100 0110 0011 0001"),
    "prefix": (masks.prefix(2), "1100 1100 1100 1100"),
    "prefix language model": (
        masks.prefix(2) | masks.causal(),
        "1100 1100 1110 1111",
    ),
    "block-sparse": (
        masks.block_sparse([[1, 0], [0, 1]], 2),
        "1100 1100 0011 0011",
    ),
    "block-sparse, beyond": (masks.block_sparse([[1]], 2), "1100 1100 0000 0000"),
    "strided": (masks.strided(2), "1010 0101 1010 0101"),
    "strided by 3": (masks.strided(3), "10010 01001 00100 10010 01001"),
    "dilated": (masks.dilated(1, 2), "10000 01000 10100 01010 00101"),
    "global": (masks.global_tokens(1), "1111 1000 1000 1000"),
    "Longformer": (
        masks.window(1) | masks.global_tokens(1),
        "1111 1100 1110 1011",
    ),
    "causal Longformer": (
        (masks.window(1) | masks.global_tokens(1)) & masks.causal(),
        "1000 1100 1110 1011",
    ),
    "causal window": (masks.causal() & masks.window(1, 1), "1000 1100 0110 0011"),
    "neighborhood, 1-D": (masks.neighborhood([4], 1), "1100 1110 0111 0011"),
    "neighborhood, 2-D": (
        masks.neighborhood([2, 3], 1),
        "110110 111111 011011 110110 111111 011011",
    ),
    "neighborhood, 3-D": (
        masks.neighborhood([3, 1, 2], 0),
        "100000 010000 001000 000100 000010 000001",
    ),
    "causal frames": (
        masks.neighborhood([2, 2], 1) & masks.causal(),
        "1000 1100 1110 1111",
    ),
    "nothing": (masks.window(0) & masks.strided(1) & masks.prefix(0), "00 00"),
}

PACKED = {
    "segments": (masks.segments(), "110000 110000 001100 001100 000000 000000"),
    "causal segments": (
        masks.causal() & masks.segments(),
        "100000 110000 001000 001100 000000 000000",
    ),
    "padding": (masks.padding(), "111100 111100 111100 111100 111100 111100"),
    "causal or same document": (
        (masks.causal() | masks.segments()) & masks.padding(),
        "110000 110000 111100 111100 111100 111100",
    ),
}

every_mask = pytest.mark.parametrize(
    ("mask", "literal"), LITERAL.values(), ids=LITERAL.keys()
)


def matrix(literal: str) -> np.ndarray:
    return np.array([[cell == "1" for cell in row] for row in literal.split()])


def documents(xp: object = np) -> TokenPositions:
    segment_BL = xp.asarray([[1, 1, 2, 2, 0, 0]])
    position_BL = xp.asarray([[0, 1, 0, 1, 0, 0]])
    return TokenPositions(xp.arange(6)[None], position_BL, segment_BL)


@every_mask
def test_mask_equals_its_literal_matrix(mask: Mask, literal: str) -> None:
    expected = matrix(literal)
    length = len(expected)
    got = mask.array(length)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, expected)
    tokens = masks.single_document(length)
    traced = jax.jit(lambda q, k: mask.allowed_pairs(q, k))(tokens, tokens)
    np.testing.assert_array_equal(
        np.broadcast_to(traced, (1, *expected.shape))[0], expected
    )


@every_mask
def test_fewer_queries_or_keys_slice_the_matrix(mask: Mask, literal: str) -> None:
    expected = matrix(literal)
    length = len(expected)
    np.testing.assert_array_equal(mask.array(2, length), expected[:2])
    np.testing.assert_array_equal(mask.array(length, 2), expected[:, :2])


@pytest.mark.parametrize(("mask", "literal"), PACKED.values(), ids=PACKED.keys())
def test_segment_masks_equal_their_literal_matrices(mask: Mask, literal: str) -> None:
    tokens = documents()
    for allowed_pairs in (mask.allowed_pairs, jax.jit(mask.allowed_pairs)):
        allowed = np.broadcast_to(allowed_pairs(tokens, tokens), (1, 6, 6))
        np.testing.assert_array_equal(allowed[0], matrix(literal))


@every_mask
@pytest.mark.parametrize("block", [1, 2, 3])
def test_counts_and_blocks_equal_those_of_the_matrix(
    mask: Mask, literal: str, block: int
) -> None:
    """A block with a 1 is computed, one without a 0 is full; the count is the number of
    scores in the computed blocks."""
    expected = matrix(literal)
    length = len(expected)
    edges = range(0, length, block)
    parts = [[expected[i : i + block, j : j + block] for j in edges] for i in edges]
    blocks = mask.blocks(length, length, query_block=block, key_block=block)
    np.testing.assert_array_equal(
        blocks.computed, [[part.any() for part in row] for row in parts]
    )
    np.testing.assert_array_equal(
        blocks.full, [[part.all() for part in row] for row in parts]
    )
    count = sum(part.size for row in parts for part in row if part.any())
    assert mask.num_scores(length, block=block) == count
    assert block > 1 or count == expected.sum()


@pytest.mark.parametrize(
    ("mask", "full"),
    [
        (masks.segments(), False),
        (masks.padding(), False),
        (masks.causal() & masks.segments(), False),
        (masks.full() | masks.segments(), True),
    ],
    ids=repr,
)
def test_no_block_is_full_for_unknown_segments(mask: Mask, full: bool) -> None:
    blocks = mask.blocks(8, 8, query_block=4, key_block=2)
    assert blocks.full.shape == (2, 4)
    assert blocks.computed[1].all() and (blocks.full == full).all()


def test_long_masks_are_counted_without_their_matrix() -> None:
    mask = masks.causal() & masks.window(99)
    blocks = mask.blocks(8000, 8000, query_block=100, key_block=100)
    assert blocks.computed.sum() == 2 * 80 - 1
    assert masks.causal().num_scores(1000) == 1000 * 1001 // 2


@every_mask
def test_max_lookback_bounds_the_matrix(mask: Mask, literal: str) -> None:
    query, key = np.nonzero(matrix(literal))
    if mask.max_lookback is not None and len(query):
        assert (query - key).max() < mask.max_lookback


@pytest.mark.parametrize(
    ("mask", "lookback"),
    [
        (masks.window(4), 5),
        (masks.window(4, 2), 5),
        (masks.causal() & masks.window(4), 5),
        (masks.window(2) | masks.window(6), 7),
        (masks.window(2) & masks.window(6), 3),
        (masks.dilated(2, 3), 7),
        (masks.window(2) | masks.global_tokens(1), None),
        (masks.causal(), None),
        (masks.segments() & masks.window(3) & masks.causal(), 4),
    ],
    ids=repr,
)
def test_max_lookback_of_combinations(mask: Mask, lookback: int | None) -> None:
    assert mask.max_lookback == lookback


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (masks.causal(), "causal()"),
        (masks.causal() & masks.window(3), "(causal() & window(3, 0))"),
        (
            masks.prefix(2) | masks.causal() & masks.segments(),
            "(prefix(2) | (causal() & segments()))",
        ),
        (masks.neighborhood([2, 3], 1), "neighborhood((2, 3), 1)"),
    ],
    ids=repr,
)
def test_repr_of_masks(mask: Mask, words: str) -> None:
    assert repr(mask) == words


@every_mask
def test_masks_are_hashable_values(mask: Mask, literal: str) -> None:
    """Masks of equal arguments are equal, hashable, and static arguments of jit."""
    again = eval(repr(mask), {name: getattr(masks, name) for name in dir(masks)})
    assert again == mask and hash(again) == hash(mask) and len({again, mask}) == 1
    assert mask != masks.strided(99)
    traced = []
    jitted = jax.jit(lambda mask: traced.append(mask), static_argnames="mask")
    jitted.eval_shape(mask=mask)
    jitted.eval_shape(mask=again)
    assert traced == [mask]


@pytest.mark.parametrize(
    ("mask", "arguments"),
    [
        (masks.full(), {"is_causal": False}),
        (masks.causal(), {"is_causal": True}),
        (masks.causal() & masks.full(), {"is_causal": True}),
        (masks.window(3, 2), {"is_causal": False, "local_window_size": (3, 2)}),
        (
            masks.causal() & masks.window(3, 2),
            {"is_causal": True, "local_window_size": (3, 0)},
        ),
    ],
    ids=repr,
)
def test_causal_and_window_masks_need_no_array(mask: Mask, arguments: dict) -> None:
    assert (
        masks.to_jax_kwargs(mask, masks.single_document(6), masks.single_document(6))
        == arguments
    )


@pytest.mark.parametrize(
    "mask",
    [
        masks.causal() & masks.segments(),
        masks.causal() | masks.window(2),
        masks.window(2) & masks.window(3),
        masks.strided(2),
    ],
    ids=repr,
)
def test_other_masks_become_arrays(mask: Mask) -> None:
    tokens = documents(jnp)
    kwargs = masks.to_jax_kwargs(mask, tokens, tokens)
    assert set(kwargs) == {"mask"} and kwargs["mask"].shape == (1, 1, 6, 6)
    np.testing.assert_array_equal(
        kwargs["mask"][:, 0], mask.allowed_pairs(tokens, tokens)
    )


def test_draw_plots_the_matrix() -> None:
    mask = masks.causal() & masks.window(1)
    axes = masks.plot(mask, 4)
    (image,) = axes.get_images()
    np.testing.assert_array_equal(image.get_array(), matrix("1000 1100 0110 0011"))
    assert axes.get_title() == repr(mask)
    assert masks.plot(mask, 3, 5, axes=axes) is axes
    assert axes.get_images()[1].get_array().shape == (3, 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: masks.window(-1), "window before: expected at least 0, got -1"),
        (lambda: masks.window(1, -2), "window after: expected at least 0, got -2"),
        (lambda: masks.prefix(-1), "prefix length: expected at least 0, got -1"),
        (lambda: masks.strided(0), "stride: expected at least 1, got 0"),
        (lambda: masks.dilated(1, 0), "stride: expected at least 1, got 0"),
        (lambda: masks.global_tokens(-1), "global tokens: expected at least 0"),
        (lambda: masks.neighborhood([2], -1), "radius: expected at least 0, got -1"),
        (lambda: masks.block_sparse([[1]], 0), "block: expected at least 1, got 0"),
        (
            lambda: masks.block_sparse([[1, 0], [1]], 2),
            r"expected rows of one length, got lengths \[2, 1\]",
        ),
    ],
)
def test_invalid_masks_raise(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_padded_rows_end_with_padding() -> None:
    """The padding id within a document is a token like any other."""
    ids_BL = jnp.asarray([[5, 0, 7, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    tokens = jax.jit(masks.padded, static_argnums=1)(ids_BL, 0)
    np.testing.assert_array_equal(
        tokens.segment_BL, [[1, 1, 1, 0, 0], [0] * 5, [1] * 5]
    )
    np.testing.assert_array_equal(tokens.position_BL, [range(5)])
