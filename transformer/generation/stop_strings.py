"""Continuations that end at a string: many prompts in batches of few shapes.

All prompts of a batch are decoded in bursts, and after each the host ends the rows
whose text has one of their strings. Rows and caches have powers of two as lengths, so
that a data set of prompts takes a handful of compilations. On a CPU a scanned stack is
unrolled after the prompts (`decoding.unroll_layers_on_cpu`), its weights once, where
there are many tokens to decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer import checks
from transformer.generation import decoding
from transformer.generation.logit_filters import Choose, among_first

SMALLEST_PROMPT = 32
# Tokens between two looks at the text.
BURST = 16
# Of SmolLM2-135M unrolled layers take 13 s of CPU time more to compile and save 28 ms a
# decoding step: below this many steps they are not worth it.
UNROLLED_FROM = 500


class Prompt(NamedTuple):
    """ids: of the prompt. until: strings that end its continuation, which they do not
    belong to. new_tokens: at most."""

    ids: tuple[int, ...]
    until: tuple[str, ...]
    new_tokens: int


class _Programs(NamedTuple):
    """prefill: of prompts. unstack: of its state, for decode. decode: a burst."""

    prefill: Any
    unstack: Callable[[decoding.DecodeState], decoding.DecodeState]
    decode: Any


Completer = Callable[[Any, Sequence[Prompt], jax.Array], Iterator[tuple[int, str]]]


def cut_text(text: str, until: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of `until`, and whether it has one."""
    places = [place for string in until if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text, bool(places)


def make_completer(
    fns: decoding.DecodeFns,
    tokenizer: Any,
    *,
    length: int,
    choose: Choose,
    batch_size: int = 8,
) -> Completer:
    """A function (params, prompts, key) -> (number of the prompt, its continuation), as
    batches end; the text of stop tokens is none.

    length: tokens that the model attends to. ValueError, before any computation, where
    a prompt and its new tokens exceed it, and for an id outside the vocabulary.
    """
    choose = among_first(tokenizer.vocab_size, choose)
    unrolled_fns = decoding.fns_on_cpu(fns)
    prefill = jax.jit(partial(decoding.prefill, fns), static_argnames="new_tokens")
    sampling: Any = {"choose": choose, "stop": tokenizer.stops}

    def programs_of(one: decoding.DecodeFns | None) -> _Programs:
        decode = partial(decoding.decode, one or fns, **sampling)
        unstack = decoding.unstack_cache if one else lambda state: state
        return _Programs(prefill, unstack, jax.jit(decode, donate_argnums=1))

    of_layers = {True: programs_of(unrolled_fns), False: programs_of(None)}

    def complete(
        params: Any, prompts: Sequence[Prompt], key: jax.Array
    ) -> Iterator[tuple[int, str]]:
        for prompt in prompts:
            _check(prompt, length, tokenizer.vocab_size)
        weights = decoding.cast_weights(fns, params)
        steps = sum(prompt.new_tokens for prompt in prompts) / batch_size
        unrolled = unrolled_fns is not None and steps >= UNROLLED_FROM
        layers = decoding.unstack_weights(weights) if unrolled else weights
        sizes = [_bucket(prompt, length) for prompt in prompts]
        order = sorted(range(len(prompts)), key=sizes.__getitem__)
        while order:
            size = sizes[order[0]]
            numbers = [n for n in order[:batch_size] if sizes[n] == size]
            order = order[len(numbers) :]
            batch = [prompts[number] for number in numbers]
            here = jax.random.fold_in(key, numbers[0])
            texts = _complete_batch(
                of_layers[unrolled], tokenizer, (weights, layers), batch, size, here
            )
            yield from zip(numbers, texts, strict=True)

    return complete


def _bucket(prompt: Prompt, length: int) -> tuple[int, int]:
    """Tokens of a row's prompt and of its cache, with padding."""
    ids = min(length, max(SMALLEST_PROMPT, 1 << (len(prompt.ids) - 1).bit_length()))
    total = ids + max(BURST, 1 << (prompt.new_tokens - 1).bit_length())
    return ids, min(length, total)


def _check(prompt: Prompt, length: int, vocab_size: int) -> None:
    checks.at_least("new_tokens", prompt.new_tokens, 1)
    checks.check_indices("token of a prompt", prompt.ids, vocab_size)
    total = len(prompt.ids) + prompt.new_tokens
    if not prompt.ids or total > length:
        raise ValueError(
            f"prompt: expected at least one token, and at most {length} with the "
            f"{prompt.new_tokens} new ones, got a prompt of {len(prompt.ids)}"
        )


def _complete_batch(
    programs: _Programs,
    tokenizer: Any,
    weights: tuple[Any, Any],
    batch: Sequence[Prompt],
    size: tuple[int, int],
    key: jax.Array,
) -> list[str]:
    """The texts of a batch. weights: for `prefill`, and for `decode`."""
    longest, total = size
    whole, layers = weights
    rows = 1 << (len(batch) - 1).bit_length()
    ids_BL = np.zeros((rows, longest), np.int32)
    length_B = np.ones(rows, np.int32)
    for row, prompt in enumerate(batch):
        ids_BL[row, : len(prompt.ids)], length_B[row] = prompt.ids, len(prompt.ids)
    state = programs.prefill(whole, ids_BL, length_B, key, new_tokens=total - longest)
    layers, state = decoding.float32_on_cpu(layers, programs.unstack(state))
    done_B = np.arange(rows) >= len(batch)
    texts = [""] * len(batch)
    while not done_B.all():
        state = state._replace(done_B=state.done_B | done_B)
        state = programs.decode(layers, state, tokens=BURST)
        found_BL, ends_B, stops_B = jax.device_get(
            (state.ids_BL, state.length_B, state.done_B)
        )
        for row, prompt in enumerate(batch):
            if done_B[row]:
                continue
            new = found_BL[row, len(prompt.ids) : ends_B[row]][: prompt.new_tokens]
            texts[row], ended = cut_text(tokenizer.decode(new), prompt.until)
            done_B[row] = ended or stops_B[row] or len(new) == prompt.new_tokens
    return texts
