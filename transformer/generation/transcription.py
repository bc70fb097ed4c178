"""Transcripts of sound by an encoder-decoder of frames: the most likely token each
time, after a prompt of tokens that say the language and the task (Whisper, Radford et
al. 2022, arXiv 2212.04356, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.generation import beam_search, decoding, logit_filters
from transformer.network import masks


class SpeechTokens(NamedTuple):
    """What tokens mean to a model of speech.

    start: of every prompt. languages: by their codes, and tasks by their names; empty
    for a model of one language and task. without_timestamps: ends a prompt; tokens of
    time are behind it. ends: of a transcript. excluded: never chosen. excluded_first:
    nor these as the first token.
    """

    start: int
    languages: dict[str, int]
    tasks: dict[str, int]
    without_timestamps: int
    ends: tuple[int, ...]
    excluded: tuple[int, ...]
    excluded_first: tuple[int, ...]

    def prompt(self, language: int | None, task: str) -> list[int]:
        """The prompt in a language, a token of `languages`, for a task; both are of no
        use where there is one of each."""
        named = [] if language is None else [language, self.tasks[task]]
        return [self.start, *named, self.without_timestamps]


class Transcriber(NamedTuple):
    """Compiled functions of one model. encode(params, raw_BLP) -> memory; languages
    (params, memory) -> the most likely token of a language, int32 (B,); decode(params,
    memory, ids_BL) -> (ids_BL, length_B), the prompts and their transcripts."""

    encode: Any
    languages: Any
    decode: Any


def make_transcriber(net: Any, tokens: SpeechTokens, *, length: int) -> Transcriber:
    """The functions of an `encoder_decoder.EncoderDecoder` of frames, two for each
    token of the encoder. length: tokens of a prompt and its transcript, at most."""
    fns = decoding.decode_fns(net, decoding.decode_dtype("float32"))
    key = jax.random.key(0)

    def encode(params: Any, raw_BLP: jax.Array) -> Any:
        source = masks.single_document(raw_BLP.shape[1] // 2)
        weights = {"params": fns.cast_weights(params)}
        return net.apply(weights, raw_BLP, source, method="cache_memory")

    def prefill(params: Any, memory: Any, ids_BL: jax.Array, new_tokens: int) -> Any:
        own, weights = (
            beam_search.with_cross_cache(fns, memory),
            fns.cast_weights(params),
        )
        length_B = jnp.full(ids_BL.shape[:1], ids_BL.shape[1], jnp.int32)
        state = decoding.prefill(
            own, weights, ids_BL, length_B, key, new_tokens=new_tokens
        )
        return own, weights, state

    def languages(params: Any, memory: Any, ids_BL: jax.Array) -> jax.Array:
        _, _, state = prefill(params, memory, ids_BL, 1)
        language_V = jnp.asarray(list(tokens.languages.values()), jnp.int32)
        return language_V[state.logits_BV[:, language_V].argmax(-1)]

    def decode(params: Any, memory: Any, ids_BL: jax.Array) -> Any:
        new_tokens = length - ids_BL.shape[1]
        own, weights, state = prefill(params, memory, ids_BL, new_tokens)
        first = logit_filters.exclude(tokens.excluded_first)
        always = logit_filters.exclude(tokens.excluded)
        state = decoding.decode(
            own,
            weights,
            state._replace(logits_BV=first(state.logits_BV)),
            choose=lambda logits_BV, key: logit_filters.greedy(always(logits_BV), key),
            tokens=new_tokens,
            stop=tokens.ends,
        )
        return state.ids_BL, state.length_B

    return Transcriber(jax.jit(encode), jax.jit(languages), jax.jit(decode))


def transcribe_windows(
    transcriber: Transcriber,
    params: Any,
    tokens: SpeechTokens,
    windows: Sequence[np.ndarray],
    *,
    language: str | None,
    task: str,
    batch: int = 4,
) -> tuple[int | None, list[list[int]]]:
    """The token of the language and the transcript of each window of one file, frames
    [2 L, P], without its prompt and its end.

    language: a code of `tokens.languages`, where there are some; that of the first
    window, if None. batch: windows at a time.
    """
    spoken = tokens.languages[language] if language and tokens.languages else None
    found: list[list[int]] = []
    rows = min(batch, len(windows))
    for start in range(0, len(windows), rows):
        chosen = list(windows[start : start + rows])
        # The last batch is filled up, so that nothing is compiled for it.
        raw_BLP = np.stack(chosen + chosen[-1:] * (rows - len(chosen)))
        memory = transcriber.encode(params, raw_BLP)
        if spoken is None and tokens.languages:
            start_BL = np.full((rows, 1), tokens.start, np.int32)
            spoken = int(transcriber.languages(params, memory, start_BL)[0])
        prompt = tokens.prompt(spoken, task)
        ids_BL = np.tile(np.asarray(prompt, np.int32), (rows, 1))
        ids_BL, length_B = jax.device_get(transcriber.decode(params, memory, ids_BL))
        for row in range(len(chosen)):
            ids = ids_BL[row, len(prompt) : length_B[row]].tolist()
            found.append(ids[:-1] if ids and ids[-1] in tokens.ends else ids)
    return spoken, found
