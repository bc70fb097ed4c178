"""Generated text as it comes: bursts of tokens from the compiled loop to the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.generation import decoding
from transformer.generation.sampling import Choose


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
) -> Iterator[list[list[int]]]:
    """What each prompt gained, `burst` tokens at a time, until all have stopped or
    have `new_tokens`. One program reads the prompts, one advances; both compile once.
    """
    ids_BL, length_B = decoding.padded(prompts)
    start = jax.jit(partial(decoding.started, language, new_tokens=new_tokens))
    advance = jax.jit(
        partial(decoding.advanced, language, choose=choose, stop=stop),
        donate_argnums=1,
    )
    state = start(params, ids_BL, length_B, key)
    told_B = length_B
    for drawn in range(0, new_tokens, burst):
        state = advance(params, state, tokens=min(burst, new_tokens - drawn))
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
