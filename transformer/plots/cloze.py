"""Texts with gaps that a model has filled, written out and drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

COLUMNS, POINTS = 84, 9.4
# A character's width over its height in the monospaced font.
NARROW = 0.602
RIGHT, WRONG, MISSED, PLAIN = "#1a7f37", "#c4302b", "#9a9a9a", "#202020"


class Gap(NamedTuple):
    """What stood there, and what the model says."""

    true: str
    said: str


Passage = Sequence[str | Gap]


def joined(pieces: Sequence[np.ndarray], marks: Sequence[int]) -> np.ndarray:
    """Pieces with a mark in each gap, int32."""
    between = [np.asarray([mark]) for mark in marks] + [np.zeros(0, int)]
    pairs = zip(pieces, between, strict=True)
    return np.concatenate([part for pair in pairs for part in pair]).astype(np.int32)


def passage(
    pieces: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    said: Sequence[np.ndarray],
    decode: Callable[[Any], str],
) -> list[str | Gap]:
    """Of the pieces of a row of tokens, and of what stood and what the model says in
    each gap between them."""
    gaps = [Gap(decode(t), decode(s)) for t, s in zip(true, said, strict=True)]
    parts = [
        part for pair in zip(map(decode, pieces), gaps, strict=False) for part in pair
    ]
    return [*parts, decode(pieces[-1])]


def written(parts: Passage) -> str:
    """As text: a gap is [what the model says|what stood there], or [that] if alike."""

    def one(part: str | Gap) -> str:
        if isinstance(part, str):
            return part
        return (
            f"[{part.said}]" if part.said == part.true else f"[{part.said}|{part.true}]"
        )

    return "".join(map(one, parts))


def filled(parts: Passage) -> str:
    """The text as the model has it."""
    return "".join(part if isinstance(part, str) else part.said for part in parts)


def picture(passages: Sequence[Passage]) -> Any:
    """A matplotlib figure of passages: right fillings green; wrong ones red, with what
    stood there behind them in grey."""
    from matplotlib.figure import Figure

    pages = [_lines(parts) for parts in passages]
    rows = sum(len(lines) + 1 for lines in pages)
    figure = Figure((COLUMNS * NARROW * POINTS / 72 / 0.96, 0.21 * rows))
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set(xlim=(0, COLUMNS), ylim=(rows - 1, -0.5))
    axes.set_axis_off()
    row = 0
    for lines in pages:
        for line in lines:
            for column, word, colour in line:
                weight = "normal" if colour in (PLAIN, MISSED) else "bold"
                axes.text(
                    *(column, row, word),
                    **{"color": colour, "family": "monospace", "weight": weight},
                    va="center",
                    fontsize=POINTS,
                )
            row += 1
        row += 1
    return figure


def _lines(parts: Passage) -> list[list[tuple[int, str, str]]]:
    """Words with their columns and colours, wrapped as a whole."""
    text, colours = "", []
    for part in parts:
        for words, colour in _coloured(part):
            flat = words.replace("\n", " ")
            text += flat
            colours += [colour] * len(flat)
    lines, place = [], 0
    for line in textwrap.wrap(text, COLUMNS, drop_whitespace=False):
        own = colours[place : place + len(line)]
        cuts = [0, *(1 + np.flatnonzero(np.asarray(own[1:]) != own[:-1])), len(line)]
        lines.append(
            [(a, line[a:b], own[a]) for a, b in zip(cuts, cuts[1:], strict=False)]
        )
        place += len(line)
    return lines


def _coloured(part: str | Gap) -> list[tuple[str, str]]:
    if isinstance(part, str):
        return [(part, PLAIN)]
    if part.said == part.true:
        return [(part.said, RIGHT)]
    return [(part.said, WRONG), (f"({part.true.strip()})", MISSED)]
