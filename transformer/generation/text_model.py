"""Text in, text out: complete prompts in one batch, or stream the new text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from transformer import checks
from transformer.checks import at_least
from transformer.generation import decoding, logit_filters
from transformer.generation.logit_filters import Choose
from transformer.network.precision import DecodeDtype

TEMPERATURES = get_args(checks.Temperature)[1]


def stream_tokens(
    fns: decoding.DecodeFns,
    params: Any,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
    stop: Sequence[int] = (),
    refused: Sequence[int] | None = None,
    burst: int = 8,
    cache_length: int = 256,
) -> Iterator[list[list[int]]]:
    """The new tokens of each prompt, `burst` at a time, until all rows have stopped or
    have `new_tokens`.

    One program fills the cache, one decodes a burst. The cache has `cache_length` slots
    at first and doubles whenever it is full; then the second program compiles again.

    ValueError, before any computation, for ids outside the vocabulary, for more tokens
    than the model has positions, and for one of `refused` in a prompt, by default those
    of `stop`: a cache holds one document, and a model does not see those before it.
    """
    ids_BL, length_B = decoding.pad_prompts(prompts)
    longest = ids_BL.shape[1]
    most = longest + new_tokens
    refused = stop if refused is None else refused
    jax.eval_shape(lambda: fns.empty_cache(len(prompts), most, 1))
    cache_length = min(most, max(cache_length, longest + burst))
    prefill = jax.jit(partial(decoding.prefill, fns, new_tokens=cache_length - longest))
    abstract = jax.eval_shape(fns.cast_weights, params)
    logits_BV = prefill.eval_shape(abstract, ids_BL, length_B, key).logits_BV
    _check_prompts(ids_BL, prompts, refused, vocab_size=logits_BV.shape[1])
    weights = decoding.cast_weights(fns, params)
    state = prefill(weights, ids_BL, length_B, key)
    weights, state = decoding.float32_on_cpu(weights, state)
    fns, weights, state = decoding.unroll_layers_on_cpu(fns, weights, state)
    grow_cache = jax.jit(
        partial(decoding.grow_cache, fns), static_argnames="cache_length"
    )
    decode = jax.jit(
        partial(decoding.decode, fns, choose=choose, stop=stop), donate_argnums=1
    )
    start_B = length_B
    for done in range(0, new_tokens, burst):
        if cache_length < min(most, longest + done + burst):
            cache_length = min(most, max(2 * cache_length, longest + done + burst))
            state = grow_cache(state, cache_length=cache_length)
        state = decode(weights, state, tokens=min(burst, new_tokens - done))
        ids_BL, length_B, done_B = jax.device_get(
            (state.ids_BL, state.length_B, state.done_B)
        )
        yield [
            ids_BL[row, start:stop].tolist()
            for row, (start, stop) in enumerate(zip(start_B, length_B, strict=True))
        ]
        start_B = length_B
        if np.all(done_B):
            return


def _check_prompts(
    ids_BL: np.ndarray,
    prompts: Sequence[Sequence[int]],
    refused: Sequence[int],
    *,
    vocab_size: int,
) -> None:
    checks.check_indices("token of a prompt", ids_BL, vocab_size)
    ends = sorted({int(token) for prompt in prompts for token in prompt} & set(refused))
    if ends:
        raise ValueError(
            f"prompts: expected one document each, got its end, token {ends[0]}, in one"
        )


class TextModel(NamedTuple):
    """A language model with its tokenizer.

    tokenizer: has `encode`, `decode_stream`, `vocab_size` and `stops`, as
    `data.text.tokenizers.Tokenizer`.
    sequence_length: tokens of a training row, the limit of prompt and new tokens.
    refused: tokens that a prompt must not have, as of `stream_tokens`; none where the
        turns of a chat, one document, end with the token that ends a text.
    starts: tokens before each prompt, as the tokenizer says; none where a chat has its
        own.
    """

    fns: decoding.DecodeFns
    tokenizer: Any
    sequence_length: int
    refused: tuple[int, ...] | None = None
    starts: tuple[int, ...] = ()


def from_net(
    net: Any, tokenizer: Any, *, sequence_length: int, compute_dtype: Any
) -> TextModel:
    """A `TextModel` of a decoder module; `decoding.decode_dtype` says in which dtype it
    decodes."""
    fns = decoding.decode_fns(net, decoding.decode_dtype(compute_dtype))
    starts = getattr(tokenizer, "starts", ())
    return TextModel(fns, tokenizer, sequence_length, starts=starts)


def narrow(model: TextModel, params: Any, dtype: DecodeDtype) -> TextModel:
    """The same model decoding with weights of `dtype`; prints what they are. ValueError
    where `decoding.narrow` has one."""
    from transformer.network import narrow_weights

    fns = decoding.narrow(model.fns, dtype)
    weights = jax.eval_shape(fns.cast_weights, params)
    print(narrow_weights.describe(weights, dtype), flush=True)
    return model._replace(fns=fns)


def sampler_from_flags(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Choose:
    """A sampler with these filters, in this order; temperature 0 is greedy. ValueError
    for a value out of range."""
    if temperature not in TEMPERATURES:
        raise ValueError(
            f"temperature: expected a number in {TEMPERATURES}, got {temperature}"
        )
    if temperature == 0:
        return logit_filters.greedy
    filters = [logit_filters.temperature(temperature)]
    filters += [] if top_k is None else [logit_filters.top_k(top_k)]
    filters += [] if top_p is None else [logit_filters.top_p(top_p)]
    filters += [] if min_p is None else [logit_filters.min_p(min_p)]
    return logit_filters.categorical(*filters)


def stream_text(
    model: TextModel,
    params: Any,
    prompts: Sequence[str],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
) -> Iterator[list[str]]:
    """The new text of each prompt, burst by burst.

    ValueError, before any computation, for an empty prompt, one that is not UTF-8, and
    where a prompt and `new_tokens` together exceed `sequence_length`.
    """
    texts = [checks.utf8("prompt", prompt) for prompt in prompts]
    ids = [[*model.starts, *model.tokenizer.encode(text)] for text in texts]
    longest = max(map(len, ids), default=0)
    at_least("new_tokens", new_tokens, 1)
    if longest + new_tokens > model.sequence_length:
        raise ValueError(
            f"prompt too long: expected at most {model.sequence_length} tokens with "
            f"the {new_tokens} new ones, got a prompt of {longest}"
        )
    decoding.pad_prompts(ids)
    return _stream(model, params, ids, key, choose=choose, new_tokens=new_tokens)


def _stream(
    model: TextModel,
    params: Any,
    ids: list[list[int]],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
) -> Iterator[list[str]]:
    push = [model.tokenizer.decode_stream() for _ in ids]
    refused = model.refused
    if refused is None:
        # The token that ends a text may also stand before it.
        refused = tuple({*model.tokenizer.stops} - {*model.starts})
    sampling: Any = {
        "choose": logit_filters.among_first(model.tokenizer.vocab_size, choose),
        "new_tokens": new_tokens,
        "stop": model.tokenizer.stops,
        "refused": refused,
    }
    for burst in stream_tokens(model.fns, params, ids, key, **sampling):
        yield [
            "".join(push[row](token) for token in tokens)
            for row, tokens in enumerate(burst)
        ]
    yield [flush(final=True) for flush in push]


def complete(
    model: TextModel,
    params: Any,
    prompts: Sequence[str],
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
) -> list[str]:
    """Each prompt with its continuation, all in one batch. Errors as `stream_text`."""
    pieces = stream_text(
        model, params, prompts, key, choose=choose, new_tokens=new_tokens
    )
    rows = zip(*pieces, strict=True)
    return [prompt + "".join(row) for prompt, row in zip(prompts, rows, strict=True)]


def generate(
    model: TextModel,
    params: Any,
    key: jax.Array,
    *,
    prompt: checks.Prompt = "It is a truth universally acknowledged",
    new_tokens: checks.Count = 200,
    temperature: checks.Temperature = 0.8,
    top_k: checks.Count | None = None,
    top_p: checks.PositiveFraction | None = 0.95,
    min_p: checks.Fraction | None = None,
    sample_seed: checks.Seed = 0,
    decode_dtype: DecodeDtype | None = None,
) -> str:
    """Continue a prompt: print the text token by token, and return it.

    Args:
        prompt: the text to continue.
        new_tokens: how many tokens to add, at most.
        temperature: below 1 sharper, above 1 flatter; 0 is greedy.
        top_k: sample from this many most likely tokens only.
        top_p: sample from the fewest tokens of this total probability.
        min_p: sample from tokens at least this fraction as likely as the most likely.
        sample_seed: another number gives another text.
        decode_dtype: of the weights on a CPU; bfloat16 and int8 decode faster and round
            them (pip install -e '.[narrow]'). Float32 unless given.
    """
    model = model if decode_dtype is None else narrow(model, params, decode_dtype)
    if top_k is not None and top_k > model.tokenizer.vocab_size:
        raise ValueError(
            f"top_k: expected at most {model.tokenizer.vocab_size}, the tokens of the "
            f"vocabulary, got {top_k}"
        )
    key = jax.random.fold_in(key, sample_seed)
    choose = sampler_from_flags(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    pieces = stream_text(
        model, params, [prompt], key, choose=choose, new_tokens=new_tokens
    )
    text = prompt
    print(prompt, end="", flush=True)
    for (piece,) in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text
