"""Minimal pairs (BLiMP, Warstadt et al. 2020, arXiv 1912.00582): how often a language
model finds the acceptable of two sentences more likely than the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer.data.readers import table
from transformer.evaluation import log_likelihood
from transformer.evaluation.log_likelihood import LanguageModel

COLUMNS = ("sentence_good", "sentence_bad")
# The column of a pair's phenomenon, where a file has one.
GROUP = "UID"


class MinimalPair(NamedTuple):
    """Two sentences, of which the first is acceptable. group: its phenomenon."""

    good: str
    bad: str
    group: str = ""


def read(path: Path) -> list[MinimalPair]:
    """The pairs of a table with the columns `COLUMNS` and, maybe, `GROUP`; by default
    the group is the file's name. ValueError, with file and row, for an empty sentence
    and a pair of equal ones."""

    def columns(present: Sequence[str]) -> list[str]:
        return [*COLUMNS, *([GROUP] if GROUP in present else [])]

    opened = table.read(path, columns)
    pairs = []
    for number, (good, bad, *group) in enumerate(table.require_cells(opened.rows)):
        if good == bad:
            raise ValueError(
                f"{path}, pair {number + 1}: expected two sentences, got {good!r} twice"
            )
        pairs.append(MinimalPair(good, bad, group[0] if group else path.stem))
    if not pairs:
        raise ValueError(f"{path}: expected pairs, got none")
    return pairs


class PairScores(NamedTuple):
    """accuracy: of all pairs, where a tie counts half, as chance has it. ties: how many
    there are. by_group: (accuracy, pairs) of each group, the hardest first."""

    accuracy: float
    ties: int
    by_group: dict[str, tuple[float, int]]


def score(
    model: LanguageModel, pairs: Sequence[MinimalPair], *, batch_tokens: int = 2048
) -> PairScores:
    """The pairs by the log-likelihoods of whole sentences."""
    sentences = [text for pair in pairs for text in (pair.good, pair.bad)]
    encode = log_likelihood.encode_continuation
    items = [encode(model, "", sentence) for sentence in sentences]
    found = log_likelihood.make_scorer(model, batch_tokens=batch_tokens)(items)
    sums = np.array([one.log_likelihood for one in found]).reshape(-1, 2)
    return summarize(pairs, sums[:, 0], sums[:, 1])


def summarize(
    pairs: Sequence[MinimalPair], good: np.ndarray, bad: np.ndarray
) -> PairScores:
    """The accuracy, from the scores of each pair's sentences; NaN is wrong."""
    correct = (good > bad) + 0.5 * (good == bad)
    groups = defaultdict(list)
    for pair, right in zip(pairs, correct, strict=True):
        groups[pair.group].append(right)
    by_group = {name: (float(np.mean(v)), len(v)) for name, v in groups.items()}
    hardest = sorted(by_group.items(), key=lambda item: item[1])
    return PairScores(float(correct.mean()), int((good == bad).sum()), dict(hardest))
