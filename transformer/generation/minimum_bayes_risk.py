"""Of many texts that may be right, the one that is most like all of them.

The decision of least expected loss (minimum Bayes risk, Kumar and Byrne 2004,
"Minimum Bayes-Risk Decoding for Statistical Machine Translation", equation 1), and,
where neighbours are believed, the consensus caption of Devlin et al. 2015 (arXiv
1505.04467). A belief says of each text how likely it is taken to be; shares sum to 1.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Belief = Mapping[str, float]


def of_draws(texts: Sequence[str]) -> Belief:
    """Each text as often as it was drawn. ValueError where there is none."""
    if not texts:
        raise ValueError("expected draws, got none")
    counts = collections.Counter(texts)
    return {text: count / len(texts) for text, count in counts.items()}


def of_neighbours(
    texts: Sequence[str] | np.ndarray, apart: np.ndarray, *, most: int, fade: float
) -> Belief:
    """The texts of the `most` nearest of the neighbours that stand `apart` [N] from
    what is asked about: e times less for each `fade` further away."""
    near = np.argsort(apart, kind="stable")[:most]
    weight = np.exp((apart[near[0]] - apart[near]) / fade)
    belief: dict[str, float] = collections.defaultdict(float)
    for number, share in zip(near, weight / weight.sum(), strict=True):
        belief[str(texts[number])] += float(share)
    return dict(belief)


def mixed(one: Belief, other: Belief, *, share: float) -> Belief:
    """`other` by that share, `one` by the rest (as nearest neighbours join a language
    model: Khandelwal et al. 2020, arXiv 1911.00172, equation 3)."""
    texts = dict.fromkeys((*one, *other))
    return {
        text: (1 - share) * one.get(text, 0.0) + share * other.get(text, 0.0)
        for text in texts
    }


def agreed(
    beliefs: Iterable[Belief], likeness: Callable[[str, str], float]
) -> list[str]:
    """`chosen` of each."""
    return [chosen(belief, likeness) for belief in beliefs]


def chosen(belief: Belief, likeness: Callable[[str, str], float]) -> str:
    """The believed text whose expected likeness(it, what is right) is greatest, the
    first of equals."""

    def expected(text: str) -> float:
        return sum(share * likeness(text, right) for right, share in belief.items())

    return max(belief, key=expected)
