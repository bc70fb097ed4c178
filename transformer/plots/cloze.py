"""A figure of texts with gaps that a model has filled in."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.generation.fill_in import Gap, Passage

COLUMNS, POINTS = 84, 9.4
# A character's width over its height in the monospaced font.
ASPECT = 0.602
CORRECT, WRONG, MISSED, PLAIN = "#1a7f37", "#c4302b", "#9a9a9a", "#202020"


def plot_passages(passages: Sequence[Passage]) -> Any:
    """A matplotlib figure: correct predictions green; wrong ones red, followed by the
    true text in gray."""
    from matplotlib.figure import Figure

    pages = [_lines(parts) for parts in passages]
    rows = sum(len(lines) + 1 for lines in pages)
    figure = Figure((COLUMNS * ASPECT * POINTS / 72 / 0.96, 0.21 * rows))
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set(xlim=(0, COLUMNS), ylim=(rows - 1, -0.5))
    axes.set_axis_off()
    row = 0
    for lines in pages:
        for line in lines:
            for column, words, color in line:
                _write(axes, (column, row), words, color)
            row += 1
        row += 1
    return figure


def _write(axes: Any, at: tuple[int, int], words: str, color: str) -> None:
    weight = "normal" if color in (PLAIN, MISSED) else "bold"
    style = {"color": color, "family": "monospace", "weight": weight}
    axes.text(*at, words, va="center", fontsize=POINTS, **style)


def _lines(parts: Passage) -> list[list[tuple[int, str, str]]]:
    """Lines of (column, words, color), wrapped."""
    text, colors = "", []
    for part in parts:
        for words, color in _color_spans(part):
            flat = words.replace("\n", " ")
            text += flat
            colors += [color] * len(flat)
    lines, place = [], 0
    for line in textwrap.wrap(text, COLUMNS, drop_whitespace=False):
        own = colors[place : place + len(line)]
        cuts = [0, *(1 + np.flatnonzero(np.asarray(own[1:]) != own[:-1])), len(line)]
        lines.append(
            [(a, line[a:b], own[a]) for a, b in zip(cuts, cuts[1:], strict=False)]
        )
        place += len(line)
    return lines


def _color_spans(part: str | Gap) -> list[tuple[str, str]]:
    if isinstance(part, str):
        return [(part, PLAIN)]
    if part.predicted == part.true:
        return [(part.predicted, CORRECT)]
    return [(part.predicted, WRONG), (f"({part.true.strip()})", MISSED)]
