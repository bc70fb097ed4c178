"""Texts in, other texts out: sentences of all lengths through one beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.generation import beam_search, decoding
from transformer.network import masks

# Sentences are padded to one of these many tokens: a program for each.
ROOMS = (32, 64, 128, 256, 512)


class Writer(NamedTuple):
    """A model that reads one text and writes another, and its tokenizer.

    language: as in `decoding`, of blocks that read. remember(weights, ids_BL, tokens):
    what its layers remember of what they read. encode: text -> token ids. decode: back.
    end: the id that closes what is read, and what is written at either end.
    """

    language: decoding.Language
    remember: Callable[..., Any]
    encode: Callable[[str], Any]
    decode: Callable[[Any], str]
    end: int


def searched(
    writer: Writer,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    hypotheses: int,
    penalty: float,
) -> beam_search.Hypotheses:
    """What to write for each text of token ids, padded to L; it may be half as long
    again, and a little more."""
    rows, length = ids_BL.shape
    index_BL = jnp.arange(length)[None]
    segment_BL = (index_BL < length_B[:, None]).astype(jnp.int32)
    weights = writer.language.weights(params)
    read = masks.packed(segment_BL, index_BL)
    remembered = writer.remember(weights, ids_BL, read)
    language = beam_search.remembering(writer.language, remembered, beams=hypotheses)
    return beam_search.searched(
        language._replace(weights=lambda weights: weights),
        weights,
        jnp.full((rows, 1), writer.end),
        jnp.ones((rows,), jnp.int32),
        beams=hypotheses,
        new_tokens=length + length // 2 + 8,
        end=writer.end,
        penalty=penalty,
    )


def translated(
    writer: Writer,
    params: Any,
    texts: Sequence[str],
    *,
    hypotheses: int = 4,
    penalty: float = 0.6,
    batch_size: int = 32,
) -> list[str]:
    """The best of `hypotheses` that are followed for each text; penalty is the power of
    `beams.length_penalty`. Texts of like length are searched together.

    ValueError for a text of more tokens than the last of `ROOMS`.
    """
    search = jax.jit(partial(searched, writer, hypotheses=hypotheses, penalty=penalty))
    codes = [np.append(writer.encode(text), writer.end) for text in texts]
    said = [""] * len(codes)
    for room, numbers in by_room([len(code) for code in codes]).items():
        for start in range(0, len(numbers), batch_size):
            chosen = numbers[start : start + batch_size]
            filled = [*chosen, *chosen[:1] * (batch_size - len(chosen))]
            ids_BL, length_B = decoding.padded([codes[n].tolist() for n in filled])
            ids_BL = np.pad(ids_BL, ((0, 0), (0, room - ids_BL.shape[1])))
            found = jax.device_get(search(params, ids_BL, length_B))
            best = found.ids_BIL[:, 0], found.length_BI[:, 0]
            for number, ids, length in zip(chosen, *best, strict=False):
                said[number] = writer.decode(ids[: length - 1])
    return said


def by_room(lengths: Sequence[int]) -> dict[int, list[int]]:
    """The numbers of the texts that are given so much room, the shortest first."""
    longest = max(lengths, default=0)
    if longest > ROOMS[-1]:
        raise ValueError(
            f"text too long: expected at most {ROOMS[-1]} tokens, got {longest}"
        )
    rooms: dict[int, list[int]] = {room: [] for room in ROOMS}
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        rooms[next(room for room in ROOMS if room >= lengths[number])].append(number)
    return rooms


def scores(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015), of 100, as sacrebleu
    (Post 2018, arXiv 1804.08771) has them by default."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    made = {"BLEU": BLEU(), "chrF": CHRF()}
    return {
        name: metric.corpus_score(list(said), [list(wanted)]).score
        for name, metric in made.items()
    }
