"""Filling in the gaps of a text: tokens all at once by a masked language model, spans
from left to right by an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.generation import logit_filters, process_sampler
from transformer.processes import autoregressive

OPENING = "It is a * universally acknowledged, that a single * must be in *."
# (params, pieces of token ids) -> the predicted ids of the gap after each piece but
# the last.
Fill = Callable[[Any, Sequence[np.ndarray]], list[np.ndarray]]


class FillIn(NamedTuple):
    """A model that fills gaps, with its tokenizer, which has `encode` and `decode`."""

    fill: Fill
    tokenizer: Any


class Gap(NamedTuple):
    """The true text of a gap, and the model's."""

    true: str
    predicted: str


Passage = Sequence[str | Gap]


def join_pieces(pieces: Sequence[np.ndarray], marks: Sequence[int]) -> np.ndarray:
    """Pieces of token ids with a mark in each gap between them, int32."""
    between = [np.asarray([mark]) for mark in marks] + [np.zeros(0, int)]
    pairs = zip(pieces, between, strict=True)
    return np.concatenate([part for pair in pairs for part in pair]).astype(np.int32)


def passage(
    pieces: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    decode: Callable[[Any], str],
) -> list[str | Gap]:
    """The passage of pieces of token ids, with the true and the predicted ids of each
    gap between them."""
    gaps = [Gap(decode(t), decode(p)) for t, p in zip(true, predicted, strict=True)]
    parts = [
        part for pair in zip(map(decode, pieces), gaps, strict=False) for part in pair
    ]
    return [*parts, decode(pieces[-1])]


def marked_text(parts: Passage) -> str:
    """The passage as text, a gap as [predicted|true], or [text] where they agree."""

    def text(part: str | Gap) -> str:
        if isinstance(part, str):
            return part
        if part.predicted == part.true:
            return f"[{part.predicted}]"
        return f"[{part.predicted}|{part.true}]"

    return "".join(map(text, parts))


def filled_text(parts: Passage) -> str:
    """The passage with the predicted text in its gaps."""
    return "".join(part if isinstance(part, str) else part.predicted for part in parts)


def fill_masks(logits: Callable[[Any, jax.Array], jax.Array], *, mask_id: int) -> Fill:
    """Fill each gap with the most likely token, all gaps at once.

    logits(params, ids_BL): (B, L, V) of the token at each position, masked where the id
    is `mask_id`, which is larger than all tokens' ids.
    """

    @jax.jit
    def most_likely(params: Any, ids_BL: jax.Array) -> jax.Array:
        return logits(params, ids_BL)[..., :mask_id].argmax(-1)

    def fill(params: Any, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        ids = join_pieces(pieces, [mask_id] * (len(pieces) - 1))
        predicted = np.asarray(most_likely(params, ids[None]))[0]
        return [predicted[[place]] for place in np.flatnonzero(ids == mask_id)]

    return fill


def fill_spans(
    logits: Callable[[Any, jax.Array, jax.Array], jax.Array],
    split: Callable[..., list[np.ndarray]],
    *,
    sentinel: int,
    sentinels: int,
    end: int,
    tokens_per_span: int = 8,
) -> Fill:
    """Fill each gap with a greedily decoded span.

    logits(params, source_BL, ids_BL): (B, L, V) of the next target token; the target
    starts after `end`. split(ids, sentinel, end, count=...): the spans of a target.
    sentinel: the first of `sentinels` ids, one for each gap. tokens_per_span: limit
    for each, on average. ValueError for more gaps than sentinels.
    """

    def target(params: Any, source_BL: jax.Array, *, length: int) -> jax.Array:
        end_B1 = jnp.full((1, 1), end)

        def predict(ids_BL: jax.Array, t_B: jax.Array) -> jax.Array:
            inputs_BL = jnp.concatenate([end_B1, ids_BL[:, :-1]], axis=1)
            return logits(params, source_BL, inputs_BL)

        return process_sampler.sample(
            autoregressive.process(choose=logit_filters.greedy),
            predict,
            jax.random.key(0),
            like=jax.ShapeDtypeStruct((1, length), jnp.int32),
            steps=length,
        )

    decode_target = jax.jit(target, static_argnames="length")

    def fill(params: Any, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        gaps = len(pieces) - 1
        if gaps > sentinels:
            raise ValueError(f"expected at most {sentinels} gaps, got {gaps}")
        source = join_pieces(pieces, range(sentinel, sentinel + gaps))
        length = gaps * (1 + tokens_per_span) + 1
        ids = np.asarray(decode_target(params, source[None], length=length))[0]
        return split(ids, sentinel, end, count=gaps)

    return fill


def generate(
    model: FillIn,
    params: Any,
    key: jax.Array,
    *,
    prompt: checks.Prompt = OPENING,
) -> str:
    """Fill in the gaps of a text: print the text, and return it. ValueError for a text
    that is not UTF-8.

    Args:
        prompt: the text, with an asterisk for each gap.
    """
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    parts = checks.utf8("prompt", prompt).split("*")
    pieces = [encode(piece.removesuffix(" ")) for piece in parts]
    predicted = model.fill(params, pieces)
    unknown = [np.zeros(0, np.int32)] * len(predicted)
    text = filled_text(passage(pieces, unknown, predicted, decode))
    print(text)
    return text
