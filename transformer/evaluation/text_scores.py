"""Scores of texts against references, by sacrebleu (Post 2018, arXiv 1804.08771) with
its defaults: corpus BLEU (Papineni et al. 2002), chrF (Popović 2015), both of 100; and
exact matches."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer.data.text.documents import Texts


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@functools.cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()


def chrf(texts: Texts, references: Texts) -> float:
    """Corpus chrF."""
    return _chrf().corpus_score(list(texts), [list(references)]).score


def bleu(texts: Texts, references: Texts) -> float:
    """Corpus BLEU."""
    return _bleu().corpus_score(list(texts), [list(references)]).score


def sentence_chrf(text: str, reference: str) -> float:
    """chrF of one text."""
    return _chrf().sentence_score(text, [reference]).score


def translation_scores(texts: Texts, references: Texts) -> dict[str, float]:
    """`bleu` and `chrf`."""
    return {"bleu": bleu(texts, references), "chrf": chrf(texts, references)}


def caption_scores(texts: Texts, references: Texts) -> dict[str, float]:
    """`exact_match`, the fraction of equal texts, and `chrf`."""
    equal = [a == b for a, b in zip(texts, references, strict=True)]
    return {"exact_match": float(np.mean(equal)), "chrf": chrf(texts, references)}


def score_table(
    systems: Mapping[str, Sequence[str]],
    references: Texts,
    *,
    subset: np.ndarray | None = None,
    name: str = "",
) -> dict[str, float]:
    """`caption_scores` of each system by `metric/system`, on the rows where `subset`
    holds; `name` is appended to the keys as `/name`."""
    chosen = np.ones(len(references), bool) if subset is None else subset
    rows = np.flatnonzero(chosen).tolist()
    suffix = f"/{name}" if name else ""
    return {
        f"{metric}/{system}{suffix}": score
        for system, texts in systems.items()
        for metric, score in caption_scores(
            [texts[n] for n in rows], [references[n] for n in rows]
        ).items()
    }
