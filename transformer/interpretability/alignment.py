"""Alignment of target words to source words or image patches by cross-attention
(Bahdanau et al. 2014, arXiv 1409.0473)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.interpretability.attention_weights import cross_attention_weights


class Alignment(NamedTuple):
    """Cross-attention between the words of one text pair, averaged over heads: weights
    [layers, target words, source words]."""

    weights: np.ndarray
    target: Sequence[str]
    source: Sequence[str]


def mean_over_heads(intermediates: Any) -> jax.Array:
    """(B, N, L, M): cross-attention of the N layers of a decoder, averaged over heads,
    from the collection `intermediates` of `apply`."""
    layers = cross_attention_weights(intermediates)
    return jnp.stack([weights_BHLM.mean(1) for weights_BHLM in layers], 1)


def split_words(pieces: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The words that the pieces of a tokenizer spell, and the index of each piece's
    word.

    A word begins with white space; an empty piece, such as the end token, is a word of
    its own, named "·".
    """
    begins = [not piece or piece[0].isspace() for piece in pieces]
    index = np.cumsum([place > 0 and begin for place, begin in enumerate(begins)])
    words = ["" for _ in range(int(index[-1]) + 1)] if len(pieces) else []
    for piece, word in zip(pieces, index, strict=True):
        words[word] += piece
    return [word.strip() or "·" for word in words], index


def word_attention(
    weights_LM: np.ndarray, target: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """Attention [target words, source words] from that of their pieces: the sum over a
    source word's pieces, the mean over a target word's, so that rows still sum to 1.
    target, source: the word index of each piece."""
    target_words = np.eye(target[-1] + 1)[:, target]
    source_words = np.eye(source[-1] + 1)[source]
    mean = target_words / target_words.sum(1, keepdims=True)
    return mean @ weights_LM @ source_words


def word_heatmaps(
    tokenizer: Any, weights_LM: np.ndarray, ids: np.ndarray, *, grid: tuple[int, ...]
) -> tuple[list[str], np.ndarray]:
    """The words of the caption `ids`, up to the first `tokenizer.end`, and the
    attention of each word to each patch [words, down, across]."""
    size = int(np.argmax(ids == tokenizer.end))
    words, index = split_words([tokenizer.decode([token]) for token in ids[:size]])
    patch = np.arange(weights_LM.shape[1])
    heat = word_attention(weights_LM[:size], index, patch)
    return words, heat.reshape(-1, *grid)


def copy_alignment(
    weights: np.ndarray, target: Sequence[str], source: Sequence[str]
) -> tuple[int, int]:
    """Over the words that occur exactly once in both texts, such as names and numbers:
    how many attend most to their copy, and how many there are. weights: [target words,
    source words]."""
    target, source = list(target), list(source)
    once = {w for w in target if target.count(w) == 1 and source.count(w) == 1}
    hits = [
        int(weights[target.index(word)].argmax()) == source.index(word) for word in once
    ]
    return sum(hits), len(hits)


def alignments(
    batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[Alignment]:
    """An alignment for every pair in packed rows (`data/text/sentence_pairs.py`), from
    batches with their `mean_over_heads` (B, N, L, M)."""

    def words(ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        return split_words([decode([token]) for token in ids])

    for weights_BNLM, batch in batches:
        for row, segments in enumerate(batch["segment_BL"]):
            for number in range(1, int(segments.max()) + 1):
                in_target = segments == number
                in_source = batch["source_segment_BL"][row] == number
                target, target_index = words(batch["targets_BL"][row][in_target])
                source, source_index = words(batch["source_BL"][row][in_source])
                weights = [
                    word_attention(weights_LM, target_index, source_index)
                    for weights_LM in weights_BNLM[row][:, in_target][..., in_source]
                ]
                yield Alignment(np.stack(weights), target, source)


class CopyStudy(NamedTuple):
    """accuracy: the fraction of copied words that attend most to their copy, in the
    best layer. layer: that layer, from 1. examples: alignments of that layer."""

    accuracy: float
    layer: int
    examples: list[Alignment]


def copy_study(
    pairs: Sequence[Alignment], *, words: tuple[int, int], examples: int = 2
) -> CopyStudy:
    """`copy_alignment` of each layer over all alignments. examples: the first ones
    whose source has a number of words in the range `words`, inclusive."""
    counts = np.array(
        [[copy_alignment(layer, t, s) for layer in weights] for weights, t, s in pairs]
    )
    hits, total = counts.sum(0).T
    best = int(hits.argmax())
    low, high = words
    panels = [
        one._replace(weights=one.weights[best])
        for one in pairs
        if low <= len(one.source) <= high
    ]
    accuracy = float(hits[best] / max(total[best], 1))
    return CopyStudy(accuracy, best + 1, panels[:examples])
