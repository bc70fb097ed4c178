"""Span corruption: stretches of a text cut out and asked for (T5, Raffel et al. 2020,
arXiv 1910.10683, section 3.1.4 and figure 2), numpy."""

from __future__ import annotations

import numpy as np


def counts(length: int, *, share: float, mean: float) -> tuple[int, int]:
    """How many tokens of a row are cut out, and in how many spans, at least one of each
    and leaving at least as many tokens as spans."""
    lost = min(max(1, round(length * share)), length - 1)
    return lost, min(max(1, round(lost / mean)), length - lost)


def corrupted(
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    share: float,
    mean: float,
    sentinel: int,
    end: int,
) -> dict[str, np.ndarray]:
    """A row of tokens [L] as what is read and what is to be written.

    `source_BL`: the row with each span replaced by a sentinel, `sentinel` the first and
    one more each. `targets_BL`: each sentinel and then its span, and `end`.
    `ids_BL`: the same a place later, behind an `end`. `lost_BL`: 1.0 where a target
    is a token of the text. Without the first dimension; their lengths follow from L.

    share: of the tokens that are cut out. mean: tokens of a span.
    """
    lost, spans = counts(len(ids), share=share, mean=mean)
    gone, kept = (_parted(total, spans, rng) for total in (lost, len(ids) - lost))
    # What is kept and what is lost take turns, beginning with what is kept.
    edges = np.cumsum(np.stack([kept, gone], axis=1).reshape(-1))[:-1]
    pieces = np.split(ids, edges)
    marks = [np.asarray([sentinel + number]) for number in range(spans)]
    read = [part for pair in zip(pieces[::2], marks, strict=True) for part in pair]
    said = [part for pair in zip(marks, pieces[1::2], strict=True) for part in pair]
    targets = np.concatenate([*said, [end]]).astype(np.int32)
    return {
        "source_BL": np.concatenate(read).astype(np.int32),
        "ids_BL": np.roll(targets, 1),
        "targets_BL": targets,
        "lost_BL": (targets < min(sentinel, end)).astype(np.float32),
    }


def _parted(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `parts` whole numbers above 0, every such sum alike."""
    cuts = 1 + np.sort(rng.choice(total - 1, parts - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [total]]))


def between(source: np.ndarray, sentinel: int) -> list[np.ndarray]:
    """What is read before, between and behind the sentinels of a row [L]."""
    marks = np.flatnonzero(source >= sentinel)
    edges = np.stack([marks, marks + 1], axis=1).reshape(-1)
    return np.split(source, edges)[::2]


def answers(
    written: np.ndarray, sentinel: int, end: int, *, count: int | None = None
) -> list[np.ndarray]:
    """What is written [L], before `end`, behind each of the first `count` sentinels,
    empty where one is missing; without a count, behind as many as there are.
    """
    ends = np.flatnonzero(written == end)
    said = written[: ends[0]] if len(ends) else written
    marks = np.flatnonzero(said >= sentinel)
    parts = np.split(said, marks)[1:]
    found = {int(part[0]) - sentinel: part[1:] for part in parts}
    total = len(parts) if count is None else count
    return [found.get(gap, np.zeros(0, np.int32)) for gap in range(total)]
