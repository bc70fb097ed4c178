"""Translation: texts in, texts out, by beam search from an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.generation import beam_search, decoding
from transformer.network import masks

# Texts are padded to one of these numbers of tokens: one program for each.
BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


class Translator(NamedTuple):
    """An encoder-decoder from text to text, with its tokenizer.

    fns: of the decoder. cache_memory(weights, ids_BL, tokens): keys and values of the
    encoded source for its cross-attention. tokenizer: has `encode`, `decode` and `end`;
    `end` follows the source and stands on both sides of the target.
    """

    fns: decoding.DecodeFns
    cache_memory: Callable[..., Any]
    tokenizer: Any


def from_net(net: Any, tokenizer: Any, *, compute_dtype: Any) -> Translator:
    """A `Translator` of an `EncoderDecoder` from text to text."""

    def cache_memory(weights: Any, *arguments: Any) -> Any:
        return net.apply({"params": weights}, *arguments, method="cache_memory")

    fns = decoding.decode_fns(net, decoding.decode_dtype(compute_dtype))
    return Translator(fns, cache_memory, tokenizer)


def search(
    translator: Translator,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    beam_size: int,
    length_penalty: float,
) -> beam_search.Hypotheses:
    """Hypotheses for each source (ids_BL, length_B), padded to L; at most L + L / 2 + 8
    tokens."""
    rows, length = ids_BL.shape
    position_BL = jnp.arange(length)[None]
    segment_BL = (position_BL < length_B[:, None]).astype(jnp.int32)
    weights = translator.fns.cast_weights(params)
    source = masks.packed(segment_BL, position_BL)
    memory = translator.cache_memory(weights, ids_BL, source)
    fns = beam_search.with_cross_cache(translator.fns, memory, beam_size=beam_size)
    return beam_search.beam_search(
        fns._replace(cast_weights=lambda weights: weights),
        weights,
        jnp.full((rows, 1), translator.tokenizer.end),
        jnp.ones((rows,), jnp.int32),
        beam_size=beam_size,
        new_tokens=length + length // 2 + 8,
        end=translator.tokenizer.end,
        length_penalty=length_penalty,
    )


def translate(
    translator: Translator,
    params: Any,
    texts: Sequence[str],
    *,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    batch_size: int = 32,
) -> list[str]:
    """The best hypothesis for each text; length_penalty as in `beam_search`. Texts of
    similar length share a batch.

    ValueError for a text of more tokens than the last of `BUCKETS`, or not UTF-8.
    """
    tokenizer = translator.tokenizer
    run = jax.jit(
        partial(search, translator, beam_size=beam_size, length_penalty=length_penalty)
    )
    texts = [checks.utf8("text", text) for text in texts]
    ids = [np.append(tokenizer.encode(text), tokenizer.end) for text in texts]
    translations = [""] * len(ids)
    for bucket, members in bucket_by_length([len(one) for one in ids]).items():
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            filled = [*chosen, *chosen[:1] * (batch_size - len(chosen))]
            ids_BL, length_B = decoding.pad_prompts([ids[n].tolist() for n in filled])
            ids_BL = np.pad(ids_BL, ((0, 0), (0, bucket - ids_BL.shape[1])))
            found = jax.device_get(run(params, ids_BL, length_B))
            best = found.ids_BIL[:, 0], found.length_BI[:, 0]
            for n, target, length in zip(chosen, *best, strict=False):
                translations[n] = tokenizer.decode(target[: length - 1])
    return translations


def bucket_by_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """The indices of the texts in each of `BUCKETS`, the shortest first."""
    longest = max(lengths, default=0)
    if longest > BUCKETS[-1]:
        raise ValueError(
            f"text too long: expected at most {BUCKETS[-1]} tokens, got {longest}"
        )
    buckets: dict[int, list[int]] = {bucket: [] for bucket in BUCKETS}
    for n in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        buckets[next(size for size in BUCKETS if size >= lengths[n])].append(n)
    return buckets


def generate(
    translator: Translator,
    params: Any,
    key: jax.Array,
    *,
    text: checks.Prompt = "Click the button to save the document as a file.",
    beam_size: checks.Count = 4,
    length_penalty: checks.Scale = 0.6,
) -> str:
    """Translate a text: print the translation, and return it.

    Args:
        text: the text.
        beam_size: hypotheses of the beam search; 1 is greedy.
        length_penalty: power of the length penalty; 0 favors short translations.
    """
    (translation,) = translate(
        translator,
        params,
        [text],
        beam_size=beam_size,
        length_penalty=length_penalty,
        batch_size=1,
    )
    print(translation)
    return translation
