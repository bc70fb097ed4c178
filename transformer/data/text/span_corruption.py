"""Span corruption: spans of a text are replaced by sentinels and predicted (T5, Raffel
et al. 2020, arXiv 1910.10683, section 3.1.4 and figure 2), numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from transformer.data.text import windows

MEAN_SPAN = 3.0


def span_counts(
    length: int, *, corruption_rate: float, mean_span: float
) -> tuple[int, int]:
    """The number of corrupted tokens in a row and of their spans: at least one of each,
    and at least as many tokens kept as spans; of a single token, that one."""
    corrupt = max(1, min(round(length * corruption_rate), length - 1))
    kept = max(1, length - corrupt)
    return corrupt, min(max(1, round(corrupt / mean_span)), kept)


def corrupt_spans(
    ids: np.ndarray,
    rng: np.random.Generator,
    *,
    corruption_rate: float,
    mean_span: float,
    sentinel: int,
    end: int,
    length: int | None = None,
) -> dict[str, np.ndarray]:
    """A row of tokens [L] as the encoder's and the decoder's row.

    `source_BL`: the row with each span replaced by a sentinel, `sentinel` the first and
    one more each; `source_segment_BL`: 1. `targets_BL`: each sentinel followed by its
    span, then `end`. `ids_BL`: the targets shifted right, after an `end`. `weight_BL`:
    1.0; `span_weight_BL`: 1.0 where a target is a token of the text, else 0.0. Without
    the first dimension. All are padded with 0 to the sizes of a row of `length` tokens
    (L if None).

    corruption_rate: fraction of the tokens in spans. mean_span: tokens of a span.
    """
    rates = {"corruption_rate": corruption_rate, "mean_span": mean_span}
    corrupt, spans = span_counts(len(ids), **rates)
    lost, kept = (_partition(n, spans, rng) for n in (corrupt, len(ids) - corrupt))
    # Kept and lost pieces take turns, beginning with a kept one.
    edges = np.cumsum(np.stack([kept, lost], axis=1).reshape(-1))[:-1]
    pieces = np.split(ids, edges)
    marks = [np.asarray([sentinel + number]) for number in range(spans)]
    source = [part for pair in zip(pieces[::2], marks, strict=True) for part in pair]
    target = [part for pair in zip(marks, pieces[1::2], strict=True) for part in pair]
    targets = np.concatenate([*target, [end]]).astype(np.int32)
    row = {
        "source_BL": np.concatenate(source).astype(np.int32),
        "ids_BL": np.roll(targets, 1),
        "targets_BL": targets,
        "weight_BL": np.ones(len(targets), np.float32),
        "span_weight_BL": (targets < min(sentinel, end)).astype(np.float32),
    }
    row["source_segment_BL"] = np.ones_like(row["source_BL"])
    # Both sizes grow with the number of tokens (test_span_corruption.py).
    most = length or len(ids)
    corrupt, spans = span_counts(most, **rates)
    sides = {True: most - corrupt + spans, False: corrupt + spans + 1}
    return {
        name: windows.pad(values, sides[name.startswith("source")])
        for name, values in row.items()
    }


def corruptions(
    rates: Sequence[float], *, length: int, sentinel: int, sentinels: int, end: int
) -> list[windows.PrepareWindow]:
    """`corrupt_spans` at each of the rates for windows of `length` tokens, in spans of
    `MEAN_SPAN`. ValueError where a row has more than `sentinels` spans."""
    made = []
    for rate in rates:
        _, spans = span_counts(length, corruption_rate=rate, mean_span=MEAN_SPAN)
        if spans > sentinels:
            raise ValueError(
                f"sequence_length and corruption_rate: expected at most {sentinels} "
                f"spans in a row, got {spans} at the rate {rate}"
            )
        corrupt = partial(
            corrupt_spans,
            corruption_rate=rate,
            mean_span=MEAN_SPAN,
            sentinel=sentinel,
            end=end,
            length=length,
        )
        made.append(corrupt)
    return made


def _partition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `parts` positive integers, uniform over all such sums; 0 as
    one part."""
    if not total:
        return np.zeros(1, int)
    cuts = 1 + np.sort(rng.choice(total - 1, parts - 1, replace=False))
    return np.diff(np.concatenate([[0], cuts, [total]]))


def uncorrupted_pieces(source: np.ndarray, sentinel: int) -> list[np.ndarray]:
    """The tokens before, between and after the sentinels of an encoder row [L]."""
    marks = np.flatnonzero(source >= sentinel)
    edges = np.stack([marks, marks + 1], axis=1).reshape(-1)
    return np.split(source, edges)[::2]


def predicted_spans(
    ids: np.ndarray, sentinel: int, end: int, *, count: int | None = None
) -> list[np.ndarray]:
    """The tokens after each of the first `count` sentinels of a decoder's output [L],
    before `end`; empty for a missing sentinel. Without a count, as many as there are.
    """
    ends = np.flatnonzero(ids == end)
    output = ids[: ends[0]] if len(ends) else ids
    marks = np.flatnonzero(output >= sentinel)
    parts = np.split(output, marks)[1:]
    found = {int(part[0]) - sentinel: part[1:] for part in parts}
    total = len(parts) if count is None else count
    return [found.get(number, np.zeros(0, np.int32)) for number in range(total)]
