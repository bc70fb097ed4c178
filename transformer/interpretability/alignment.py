"""Which words that were read a written word rests on, by its attention to them
(Bahdanau et al. 2014, arXiv 1409.0473, figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Reading(NamedTuple):
    """How one text is written from another: attention [layers, words written, words
    read], averaged over heads, and the words."""

    weights: np.ndarray
    written: Sequence[str]
    read: Sequence[str]


def words(pieces: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The words that the pieces of a tokenizer spell, and the number of each piece's.

    A word begins with white space; an empty piece, as what closes a text, is one too.
    """
    begins = [not piece or piece[0].isspace() for piece in pieces]
    number = np.cumsum([place > 0 and here for place, here in enumerate(begins)])
    spelt = ["" for _ in range(int(number[-1]) + 1)] if len(pieces) else []
    for piece, place in zip(pieces, number, strict=True):
        spelt[place] += piece
    return [word.strip() or "·" for word in spelt], number


def between_words(
    weights_LM: np.ndarray, written: np.ndarray, read: np.ndarray
) -> np.ndarray:
    """The attention [written words, read words] out of that of their pieces: summed
    over what is read, averaged over what is written, so that rows still sum to 1."""
    of_written = np.eye(written[-1] + 1)[:, written]
    of_read = np.eye(read[-1] + 1)[read]
    share = of_written / of_written.sum(1, keepdims=True)
    return share @ weights_LM @ of_read


def over_patches(
    symbols: Any, weights_LM: np.ndarray, ids: np.ndarray, *, places: tuple[int, ...]
) -> tuple[list[str], np.ndarray]:
    """The words of a text of tokens `ids`, up to the first `symbols.end`, and for each
    how much its pieces, in being written, look at each patch [words, down, across]."""
    size = int(np.argmax(ids == symbols.end))
    spelt, number = words([symbols.decode([token]) for token in ids[:size]])
    patch = np.arange(weights_LM.shape[1])
    share = between_words(weights_LM[:size], number, patch)
    return spelt, share.reshape(-1, *places)


def copied_found(
    weights: np.ndarray, written: Sequence[str], read: Sequence[str]
) -> tuple[int, int]:
    """Of the words that occur once in either text, such as names and numbers: on how
    many the largest weight is where it should be, and how many there are."""
    once = {w for w in written if written.count(w) == 1 and list(read).count(w) == 1}
    right = [
        int(weights[list(written).index(word)].argmax()) == list(read).index(word)
        for word in once
    ]
    return sum(right), len(right)


def readings(
    batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[Reading]:
    """Of every segment of rows of pairs (`data/text/sentence_pairs.py`): each batch with the
    attention (B, N, L, M) of its N layers, by which it is written."""

    def spelt(ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        return words([decode([token]) for token in ids])

    for weights_BNLM, batch in batches:
        for row, segments in enumerate(batch["segment_BL"]):
            for number in range(1, int(segments.max()) + 1):
                written = segments == number
                read = batch["source_segment_BL"][row] == number
                said, of_said = spelt(batch["targets_BL"][row][written])
                given, of_given = spelt(batch["source_BL"][row][read])
                own = weights_BNLM[row][:, written][..., read]
                layers = [between_words(layer, of_said, of_given) for layer in own]
                yield Reading(np.stack(layers), said, given)


def study(
    found: Sequence[Reading], *, drawn: tuple[int, int]
) -> tuple[dict[str, float], Any]:
    """How often a word that is copied rests most on itself in the layer where that is
    most often so, which layer that is, and a picture of it: the first two texts of
    `drawn` words, from and to."""
    counts = np.array(
        [[copied_found(layer, w, r) for layer in weights] for weights, w, r in found]
    )
    right, number = counts.sum(0).T
    best = int(right.argmax())
    few, many = drawn
    panels = [
        one._replace(weights=one.weights[best])
        for one in found
        if few <= len(one.read) <= many
    ]
    share = float(right[best] / max(number[best], 1))
    numbers = {"copied words aligned": share, "by layer": float(best + 1)}
    return numbers, picture(panels[:2])


def picture(panels: Sequence[Reading]) -> Any:
    """A matplotlib figure: for each reading, of one layer's weights, what is written
    downward, what is read to the right, dark where the attention is."""
    from matplotlib.figure import Figure

    widths = [len(one.read) for one in panels]
    tallest = max(len(one.written) for one in panels)
    size = 0.33 * sum(widths) + 1.3 * len(panels), 0.27 * tallest + 1.4
    figure = Figure(size, layout="constrained")
    ratios: Any = {"width_ratios": widths}
    grid: Any = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=ratios)
    for axes, (weights, written, read) in zip(grid[0], panels, strict=True):
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(read)), read, rotation=60, ha="left", fontsize=9)
        axes.set_yticks(range(len(written)), written, fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_frame_on(False)
        axes.set_xticks(np.arange(len(read) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(written) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    return figure
