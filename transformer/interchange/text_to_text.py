"""Texts from texts by an encoder-decoder of a folder, T5 or Marian: its tokenizer, the
tokens that begin and end a target, and the verb `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.generation import beam_search, decoding, logit_filters, text_model
from transformer.generation.logit_filters import Choose
from transformer.interchange import (
    generation_settings,
    marian_tokenizer,
    text_rows,
    tokenizer,
)
from transformer.interchange.text_rows import TextRows
from transformer.network import masks
from transformer.network.precision import DecodeDtype

# Tokens of a source and of a target, where no file says how many there may be.
LENGTH = 4096


class TargetTokens(NamedTuple):
    """start: before each target. ends: of one. excluded: never chosen. forced_end: what
    a target ends with where it would be cut off, if anything."""

    start: int
    ends: tuple[int, ...]
    excluded: tuple[int, ...]
    forced_end: int | None


class TextCodec(NamedTuple):
    """What a folder says beside its net. rows: of sources. encode_targets(texts): the
    ids of each, its end included where the tokenizer adds one. decode(ids): the text of
    a target, without special tokens. length: of a target with its start, at most."""

    rows: TextRows
    encode_targets: Callable[[Sequence[str]], list[np.ndarray]]
    decode: Callable[[Sequence[int]], str]
    targets: TargetTokens
    length: int


def read_targets(folder: Path, vocab_size: int) -> TargetTokens:
    """The tokens of a target, by generation_config.json or else config.json. ValueError
    for none to begin with, for words of several tokens that are never chosen,
    and for tokens beyond the vocabulary."""
    values = generation_settings.read(folder)
    start, forced = (
        values.get(f"{name}_token_id") for name in ("decoder_start", "forced_eos")
    )
    ends, words = tokenizer.configured_ends(folder), values.get("bad_words_ids") or []
    forced = forced[0] if isinstance(forced, list) and forced else forced
    for name, is_known, got in (
        ("decoder_start_token_id: expected a token", type(start) is int, start),
        (
            "forced_eos_token_id: expected a token",
            forced is None or type(forced) is int,
            forced,
        ),
        ("bad_words_ids: expected words of one token", _are_tokens(words), words),
    ):
        if not is_known:
            raise ValueError(f"{folder}: {name}, got {str(got)[:60]}")
    excluded = [*(word[0] for word in words), *(values.get("suppress_tokens") or [])]
    some = [start, *ends, *excluded, *([] if forced is None else [forced])]
    checks.check_indices(f"{folder}: token of a target", some, vocab_size)
    return TargetTokens(start, ends, tuple(excluded), forced)  # pyright: ignore


def _are_tokens(words: Any) -> bool:
    return isinstance(words, list) and all(
        isinstance(word, list) and len(word) == 1 and type(word[0]) is int
        for word in words
    )


def read(folder: Path, sizes: Any) -> TextCodec:
    """The tokenizer of a folder, and the tokens of its targets. sizes: of the net.
    ValueError where there is no tokenizer, and as `read_targets`."""
    length = getattr(sizes, "length", LENGTH)
    limits: Any = {"length": length, "vocab_size": sizes.vocab_size}
    if marian_tokenizer.applies(folder):
        made = marian_tokenizer.read(folder, **limits)
        padding, decode = made.special["pad"], made.decode
        rows = TextRows(made.encode, made.length, padding)
        encode = made.encode_targets
    else:
        rows = text_rows.read_text_rows(folder, **limits, padding=0)
        encode = rows.encode_pieces
        decode = tokenizer.read_library(folder)[0].decode
    return TextCodec(
        rows, encode, decode, read_targets(folder, sizes.vocab_size), length
    )


def generate_ids(
    net: Any,
    params: Any,
    codec: TextCodec,
    texts: Sequence[str],
    *,
    choose: Choose = logit_filters.greedy,
    new_tokens: int,
    key: jax.Array | None = None,
) -> list[list[int]]:
    """The tokens of a target for each text, without its start and its end, at most
    `new_tokens` with the end. ValueError for more than the model has positions."""
    checks.at_least("new_tokens", new_tokens, 1)
    if new_tokens >= codec.length:
        raise ValueError(
            f"new_tokens: expected at most {codec.length - 1}, the positions of the "
            f"model without the target's start, got {new_tokens}"
        )
    start, ends, excluded, forced_end = codec.targets
    fns = decoding.decode_fns(net, decoding.decode_dtype("float32"))
    keep = logit_filters.exclude(excluded)

    @jax.jit
    def run(params: Any, ids_BL: Any, segment_BL: Any, key: jax.Array) -> Any:
        index_BL = jnp.arange(ids_BL.shape[1])[None]
        source = masks.packed(segment_BL, index_BL)
        weights = fns.cast_weights(params)
        memory = net.apply({"params": weights}, ids_BL, source, method="cache_memory")
        rows = ids_BL.shape[0]
        state = decoding.generate(
            beam_search.with_cross_cache(fns, memory),
            params,
            jnp.full((rows, 1), start, jnp.int32),
            jnp.ones(rows, jnp.int32),
            key,
            choose=lambda logits_BV, key: choose(keep(logits_BV), key),
            new_tokens=new_tokens,
            stop=ends,
        )
        return state.ids_BL, state.length_B

    found: list[list[int]] = [[] for _ in texts]
    key = jax.random.key(0) if key is None else key
    for numbers, *source in text_rows.batches(codec.rows, texts):
        ids_BL, length_B = jax.device_get(run(params, *source, key))
        for row, number in enumerate(numbers):
            found[number] = ids_BL[row, 1 : length_B[row]].tolist()
    for ids in found:
        if ids[-1] in ends or (len(ids) == new_tokens and forced_end is not None):
            ids.pop()
    return found


def generate_texts(
    net: Any, params: Any, codec: TextCodec, texts: Sequence[str], **options: Any
) -> list[str]:
    """The text of a target for each text. options: of `generate_ids`."""
    found = generate_ids(net, params, codec, texts, **options)
    return [codec.decode(ids) for ids in found]


def generate(
    model: Any,
    params: Any,
    workdir: Path,
    *,
    prompt: str,
    chat: bool,
    new_tokens: int,
    temperature: float | None,
    sample_seed: int,
    decode_dtype: DecodeDtype | None = None,
    **filters: Any,
) -> str:
    """Print the text that follows from a text, and return it. The flags are those of
    `chat.generate`; by default the most likely token is chosen each time.

    ValueError for a chat and for weights of another dtype, which an encoder-decoder has
    not.
    """
    for flag, value in (("chat", chat), ("decode_dtype", decode_dtype)):
        if value:
            raise ValueError(f"--{flag}: expected a decoder, got {model.name}")
    temperature = 0.0 if temperature is None else temperature
    (text,) = generate_texts(
        model.net,
        params,
        read(model.folder, model.sizes),
        [prompt],
        choose=text_model.sampler_from_flags(temperature=temperature, **filters),
        new_tokens=new_tokens,
        key=jax.random.key(sample_seed),
    )
    print(text)
    return text
