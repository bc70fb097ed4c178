"""Texts in, texts out: prompts continued all at once, or streamed as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.generation import decoding, logit_filters
from transformer.generation.logit_filters import Choose


def bursts(
    language: decoding.Language,
    params: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
    stop: Sequence[int] = (),
    burst: int = 8,
    room: int = 256,
) -> Iterator[list[list[int]]]:
    """What each prompt gained, `burst` tokens at a time, until all have stopped or
    have `new_tokens`.

    One program reads the prompts, one advances. The rows have room for `room` tokens at
    first, and twice as many whenever they are full: then the latter compiles again.
    """
    ids_BL, length_B = decoding.padded(prompts)
    longest = ids_BL.shape[1]
    whole = longest + new_tokens
    room = min(whole, max(room, longest + burst))
    start = jax.jit(partial(decoding.started, language, new_tokens=room - longest))
    grow = jax.jit(partial(decoding.grown, language), static_argnames="room")
    advance = jax.jit(
        partial(decoding.advanced, language, choose=choose, stop=stop),
        donate_argnums=1,
    )
    weights = jax.jit(language.weights)(params)
    state = start(weights, ids_BL, length_B, key)
    weights, state = jax.jit(decoding.eased)(weights, state)
    told_B = length_B
    for drawn in range(0, new_tokens, burst):
        if room < min(whole, longest + drawn + burst):
            room = min(whole, max(2 * room, longest + drawn + burst))
            state = grow(state, room=room)
        state = advance(weights, state, tokens=min(burst, new_tokens - drawn))
        ids_BL, length_B, done_B = jax.device_get(
            (state.ids_BL, state.length_B, state.done_B)
        )
        yield [
            ids_BL[row, told:length].tolist()
            for row, (told, length) in enumerate(zip(told_B, length_B, strict=True))
        ]
        told_B = length_B
        if np.all(done_B):
            return


class Speech(NamedTuple):
    """A language model and what turns its tokens into text.

    encode: text -> token ids. stream: () -> push(token, *, final=False) -> text, which
    holds back half a character. end: the id after which nothing follows. length: of
    the rows the model was trained on, in tokens.
    """

    language: decoding.Language
    encode: Callable[[str], Any]
    stream: Callable[[], Callable[..., str]]
    end: int
    length: int


def choice(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Choose:
    """The draw that these dials describe, filters in this order; temperature 0 is
    greedy. ValueError for what is out of range."""
    if temperature == 0:
        return logit_filters.greedy
    filters = [logit_filters.temperature(temperature)]
    filters += [] if top_k is None else [logit_filters.top_k(top_k)]
    filters += [] if top_p is None else [logit_filters.top_p(top_p)]
    filters += [] if min_p is None else [logit_filters.min_p(min_p)]
    return logit_filters.drawn(*filters)


def streamed(
    speech: Speech,
    params: Any,
    prompts: Sequence[str],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
) -> Iterator[list[str]]:
    """What each prompt gained since the last burst, as text.

    Raises ValueError, before any compute, for an empty prompt and for one that with
    `new_tokens` more is longer than the rows the model was trained on.
    """
    ids = [list(speech.encode(prompt)) for prompt in prompts]
    longest = max(map(len, ids), default=0)
    if new_tokens < 1:
        raise ValueError(f"new_tokens: expected at least 1, got {new_tokens}")
    if longest + new_tokens > speech.length:
        raise ValueError(
            f"prompt too long: expected at most {speech.length} tokens with the "
            f"{new_tokens} new ones, got a prompt of {longest}"
        )
    decoding.padded(ids)
    return _decoded(speech, params, ids, key, choose=choose, new_tokens=new_tokens)


def _decoded(
    speech: Speech, params: Any, ids: list[list[int]], key: jax.Array, **dials: Any
) -> Iterator[list[str]]:
    push = [speech.stream() for _ in ids]
    stop = (speech.end,)
    for gained in bursts(speech.language, params, ids, key, stop=stop, **dials):
        yield [
            "".join(push[row](token) for token in new) for row, new in enumerate(gained)
        ]
    yield [decode(final=True) for decode in push]


def continued(
    speech: Speech,
    params: Any,
    prompts: Sequence[str],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
) -> list[str]:
    """The prompts with what follows them, all in one batch. Errors as `streamed`."""
    pieces = streamed(
        speech, params, prompts, key, choose=choose, new_tokens=new_tokens
    )
    rows = zip(*pieces, strict=True)
    return [prompt + "".join(row) for prompt, row in zip(prompts, rows, strict=True)]
