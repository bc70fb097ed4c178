"""Images in, texts out: one token at a time, by what is remembered of the patches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.generation import decoding, logit_filters
from transformer.network import masks, reading


class Namer(NamedTuple):
    """A model that reads patches and writes a text.

    language: as in `decoding`, of blocks that read. remember(weights, raw_BLP, tokens):
    what its layers remember of the patches. decode: token ids -> text. end: the id that
    stands at either end of a text. length: tokens of the longest.
    """

    language: decoding.Language
    remember: Callable[..., Any]
    decode: Callable[[Any], str]
    end: int
    length: int


def written(
    namer: Namer,
    params: Any,
    raw_BLP: jax.Array,
    key: jax.Array,
    *,
    choose: logit_filters.Choose = logit_filters.greedy,
) -> decoding.Decoding:
    """One chosen token after the other, from `end` to `end`."""
    weights = namer.language.weights(params)
    rows, length = raw_BLP.shape[:2]
    remembered = namer.remember(weights, raw_BLP, masks.row(length))

    def empty_cache(*sizes: int) -> Any:
        return reading.caches(namer.language.empty_cache(*sizes), remembered)

    return decoding.generated(
        decoding.Language(namer.language.extend, empty_cache),
        weights,
        jnp.full((rows, 1), namer.end),
        jnp.ones((rows,), jnp.int32),
        key,
        choose=choose,
        new_tokens=namer.length,
        stop=[namer.end],
    )


def named(
    namer: Namer, params: Any, raw_NLP: np.ndarray, *, batch_size: int = 64
) -> list[str]:
    """A text for each row of raw patches: the likeliest token after each other."""
    write = partial(jax.jit(partial(written, namer)), params, key=jax.random.key(0))
    return _texts(namer, write, raw_NLP, batch_size)


def drawn(
    namer: Namer,
    params: Any,
    raw_NLP: np.ndarray,
    key: jax.Array,
    *,
    draws: int,
    batch_size: int = 64,
) -> list[list[str]]:
    """So many texts for each row of raw patches, as likely as the model holds them."""
    write = jax.jit(partial(written, namer, choose=logit_filters.drawn()))

    def once(draw: int) -> list[str]:
        one = partial(write, params, key=jax.random.fold_in(key, draw))
        return _texts(namer, one, raw_NLP, batch_size)

    found = [once(draw) for draw in range(draws)]
    return [list(texts) for texts in zip(*found, strict=True)]


def _texts(
    namer: Namer, write: Callable[..., Any], raw_NLP: np.ndarray, batch_size: int
) -> list[str]:
    said: list[str] = []
    for start in range(0, len(raw_NLP), batch_size):
        part = raw_NLP[start : start + batch_size]
        filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0)))
        made = jax.device_get(write(filled))
        rows = zip(made.ids_BL, made.length_B, made.done_B, strict=True)
        texts = [namer.decode(ids[1 : size - done]) for ids, size, done in rows]
        said += texts[: len(part)]
    return said


def scores(said: Sequence[str], wanted: Sequence[str] | np.ndarray) -> dict[str, float]:
    """The share that is exactly what is wanted, and chrF (Popović 2015), of 100, as
    sacrebleu has it by default."""
    right = np.mean([a == b for a, b in zip(said, wanted, strict=True)])
    chrf = _chrf().corpus_score(list(said), [list(wanted)]).score
    return {"exact": float(right), "chrF": chrf}


def compared(
    said: Mapping[str, Sequence[str]],
    wanted: Sequence[str] | np.ndarray,
    *,
    here: np.ndarray | None = None,
    band: str = "",
) -> dict[str, float]:
    """The `scores` of each who said, of all or of those texts that are `here`, a
    `band`."""
    chosen = np.ones(len(wanted), bool) if here is None else here
    kept = [n for n, held in enumerate(chosen) if held]
    return {
        f"{metric}, {who}{band}": score
        for who, texts in said.items()
        for metric, score in scores(
            [texts[n] for n in kept], [wanted[n] for n in kept]
        ).items()
    }


def likeness(said: str, wanted: str) -> float:
    """chrF of one text."""
    return _chrf().sentence_score(said, [wanted]).score


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
