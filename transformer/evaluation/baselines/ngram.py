"""What counting tells of a token from its nearest neighbours: the baseline of every
language model (Shannon 1948). Tokens are int arrays [N] below `vocabulary`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Likeliest(NamedTuple):
    """For each context that was seen, sorted, the token that was seen in it most often,
    and how often the context was seen."""

    context: np.ndarray
    token: np.ndarray
    count: np.ndarray


def counted(context: np.ndarray, token: np.ndarray, *, vocabulary: int) -> Likeliest:
    """Of aligned contexts (whole numbers >= 0) and tokens. Equally frequent tokens: the
    lowest number."""
    pair, count = np.unique(
        context.astype(np.int64) * vocabulary + token, return_counts=True
    )
    context, token = pair // vocabulary, pair % vocabulary
    # Within a context the most frequent first.
    order = np.lexsort((token, -count, context))
    known, first = np.unique(context[order], return_index=True)
    total = np.add.reduceat(count[order], first)
    return Likeliest(known, token[order][first], total)


def guesses(
    models: Sequence[Likeliest], contexts: Sequence[np.ndarray], *, least: int = 1
) -> np.ndarray:
    """The token that each place's context makes likeliest, by the first of `models`
    whose context was seen at least `least` times; the last one is asked in any case."""
    token = models[-1].token[_found(models[-1], contexts[-1])[0]]
    for model, context in list(zip(models, contexts, strict=True))[-2::-1]:
        place, seen = _found(model, context)
        known = seen & (model.count[place] >= least)
        token = np.where(known, model.token[place], token)
    return token


def _found(model: Likeliest, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.searchsorted(model.context, context).clip(max=len(model.context) - 1)
    return place, model.context[place] == context


def before(ids: np.ndarray, *, vocabulary: int) -> list[np.ndarray]:
    """Contexts of ids[2:-1] in a trigram model with back-off: the two tokens before,
    the one before, nothing."""
    near = ids[1:-2].astype(np.int64)
    return [ids[:-3].astype(np.int64) * vocabulary + near, near, np.zeros_like(near)]


def around(ids: np.ndarray, *, vocabulary: int) -> list[np.ndarray]:
    """Contexts of ids[2:-1] when both neighbours are known, and then as `before`."""
    both = ids[1:-2].astype(np.int64) * vocabulary + ids[3:]
    return [both, *before(ids, vocabulary=vocabulary)]


def accuracies(
    train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], *, vocabulary: int
) -> dict[str, float]:
    """The share of held-out tokens that counting guesses, from documents of tokens: by
    `before` and by `around`, each with the best of a few demands on how often a context
    must have been seen, chosen on the held-out tokens in its favour."""
    told = {}
    for name, contexts_of in {"trigram": before, "both neighbours": around}.items():
        known = [
            np.concatenate(parts)
            for parts in zip(
                *(contexts_of(ids, vocabulary=vocabulary) for ids in train),
                strict=True,
            )
        ]
        token = np.concatenate([ids[2:-1] for ids in train])
        models = [counted(c, token, vocabulary=vocabulary) for c in known]
        right = np.concatenate([ids[2:-1] for ids in held_out])
        asked = [
            np.concatenate(parts)
            for parts in zip(
                *(contexts_of(ids, vocabulary=vocabulary) for ids in held_out),
                strict=True,
            )
        ]
        told[name] = max(
            float((guesses(models, asked, least=least) == right).mean())
            for least in (1, 2, 3, 5, 9)
        )
    return told
