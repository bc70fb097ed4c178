"""Gaps of a text, filled in."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from transformer.data.text import tokenizers
from transformer.generation import fill_in
from transformer.plots import cloze


def decode(ids: Any) -> str:
    return bytes(int(i) for i in ids).decode()


def test_gaps_are_marked_and_colored() -> None:
    parts = fill_in.passage(
        [np.array([104, 105]), np.array([33])],
        [np.array([97])],
        [np.array([98])],
        decode,
    )
    assert fill_in.marked_text(parts) == "hi[b|a]!"
    assert fill_in.filled_text(parts) == "hib!"
    figure = cloze.plot_passages([parts])
    assert [text.get_text() for text in figure.axes[0].texts] == ["hi", "b", "(a)", "!"]


def test_marks_stand_between_the_pieces() -> None:
    pieces = [np.array([1, 2]), np.array([3]), np.zeros(0, int)]
    assert fill_in.join_pieces(pieces, [8, 9]).tolist() == [1, 2, 8, 3, 9]


def test_masks_are_filled_with_the_most_likely_token_that_is_no_mask() -> None:
    """Logits prefer the mask, then the id of the position."""

    def logits(params: Any, ids_BL: jax.Array) -> jax.Array:
        position_BL = np.broadcast_to(np.arange(ids_BL.shape[1]), ids_BL.shape)
        return jax.nn.one_hot(position_BL, 10).at[..., 9].set(2.0)

    fill = fill_in.fill_masks(logits, mask_id=9)
    pieces = [np.array([1, 2]), np.array([3]), np.zeros(0, int)]
    assert [gap.tolist() for gap in fill(None, pieces)] == [[2], [4]]


def test_spans_are_decoded_from_left_to_right_and_split() -> None:
    """The next token is the previous one plus 1; the target starts after `end`."""

    def logits(params: Any, source_BL: jax.Array, ids_BL: jax.Array) -> jax.Array:
        assert source_BL.shape == (1, 4)
        return jax.nn.one_hot(ids_BL + 1, 30)

    def split(ids: Any, sentinel: int, end: int, *, count: int) -> list[Any]:
        return [(ids.tolist(), sentinel, end)] * count

    options: Any = {"sentinel": 20, "sentinels": 1, "end": 3, "tokens_per_span": 2}
    fill = fill_in.fill_spans(logits, split, **options)
    pieces = [np.array([1, 2]), np.array([5])]
    assert fill(None, pieces) == [([4, 5, 6, 7], 20, 3)]
    with pytest.raises(ValueError, match="at most 1 gaps, got 2"):
        fill(None, [*pieces, pieces[0]])


def test_prompts_that_are_not_utf8_are_refused() -> None:
    filler = fill_in.FillIn(lambda *_: pytest.fail("computed"), tokenizers.bytes_())
    with pytest.raises(
        ValueError, match="prompt: expected text in UTF-8, got '.udcff'"
    ):
        fill_in.generate(filler, {}, jax.random.key(0), prompt="a * b\udcff")
