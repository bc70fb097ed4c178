"""Scores of texts against references, by sacrebleu (Post 2018, arXiv 1804.08771) with
its defaults: corpus BLEU (Papineni et al. 2002), chrF (Popović 2015), both of 100;
exact matches; and error rates of transcripts."""

from __future__ import annotations

import functools
import unicodedata
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


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence of the
    other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, item in enumerate(one, 1):
        diagonal, row[0] = row[0], number
        for place, also in enumerate(other, 1):
            kept = diagonal + (item != also)
            diagonal = row[place]
            row[place] = min(kept, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def _error_rate(texts: Sequence[Any], references: Sequence[Any]) -> float:
    pairs = list(zip(texts, references, strict=True))
    size = sum(len(reference) for _, reference in pairs)
    return sum(edit_distance(*pair) for pair in pairs) / max(size, 1)


def plain_text(text: str) -> str:
    """Lower case, with a space for each mark, sign and punctuation of NFKC (Whisper,
    Radford et al. 2022, arXiv 2212.04356, appendix C, for languages other than English;
    what is in brackets stays)."""
    return "".join(
        " " if unicodedata.category(letter)[0] in "MSP" else letter
        for letter in unicodedata.normalize("NFKC", text.lower())
    )


def speech_scores(texts: Texts, references: Texts) -> dict[str, float]:
    """Error rates over all texts: edits over what the references have. `wer` of words
    between spaces, in which case and punctuation count, `wer/plain` of those of
    `plain_text`, and `cer` of characters. They can be above 1."""

    def words(lines: Texts, change: Any = str) -> list[list[str]]:
        return [change(line).split() for line in lines]

    return {
        "wer": _error_rate(words(texts), words(references)),
        "wer/plain": _error_rate(
            words(texts, plain_text), words(references, plain_text)
        ),
        "cer": _error_rate(list(texts), list(references)),
    }
