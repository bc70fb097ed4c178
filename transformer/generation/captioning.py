"""Image captioning: images in, texts out, by an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.generation import decoding, logit_filters
from transformer.network import block, masks


class Captioner(NamedTuple):
    """An encoder-decoder from raw patches to text.

    fns: of the decoder. cache_memory(weights, raw_BLP, tokens): keys and values of the
    encoded patches for its cross-attention. detokenize: token ids -> text. end: the id
    before and after a text. max_tokens: of a text.
    """

    fns: decoding.DecodeFns
    cache_memory: Callable[..., Any]
    detokenize: Callable[[Any], str]
    end: int
    max_tokens: int


def from_net(
    net: Any, tokenizer: Any, *, max_tokens: int, compute_dtype: Any
) -> Captioner:
    """A `Captioner` of an `EncoderDecoder` from patches to text.

    tokenizer: has `decode`, `vocab_size` and `end`; ids beyond its vocabulary (a mask
    token of the model) are left out of a text.
    """

    def cache_memory(weights: Any, *arguments: Any) -> Any:
        return net.apply({"params": weights}, *arguments, method="cache_memory")

    return Captioner(
        fns=decoding.decode_fns(net, decoding.decode_dtype(compute_dtype)),
        cache_memory=cache_memory,
        detokenize=lambda ids: tokenizer.decode(ids[ids < tokenizer.vocab_size]),
        end=tokenizer.end,
        max_tokens=max_tokens,
    )


def decode_captions(
    captioner: Captioner,
    params: Any,
    raw_BLP: jax.Array,
    key: jax.Array,
    *,
    choose: logit_filters.Choose = logit_filters.greedy,
) -> decoding.DecodeState:
    """Token ids of a caption for each image, which starts and stops with `end`."""
    weights = captioner.fns.cast_weights(params)
    rows, length = raw_BLP.shape[:2]
    tokens = masks.single_document(length)
    memory = captioner.cache_memory(weights, raw_BLP, tokens)

    def empty_cache(*sizes: int) -> Any:
        return block.join_caches(captioner.fns.empty_cache(*sizes), memory)

    return decoding.generate(
        decoding.DecodeFns(captioner.fns.decode, empty_cache),
        weights,
        jnp.full((rows, 1), captioner.end),
        jnp.ones((rows,), jnp.int32),
        key,
        choose=choose,
        new_tokens=captioner.max_tokens,
        stop=[captioner.end],
    )


def greedy_captions(
    captioner: Captioner, params: Any, raw_BLP: np.ndarray, *, batch_size: int = 64
) -> list[str]:
    """A caption for each image, by greedy decoding."""
    run = jax.jit(partial(decode_captions, captioner))
    run = partial(run, params, key=jax.random.key(0))
    return _batched_captions(captioner, run, raw_BLP, batch_size)


def sample_captions(
    captioner: Captioner,
    params: Any,
    raw_BLP: np.ndarray,
    key: jax.Array,
    *,
    samples_per_image: int,
    batch_size: int = 64,
) -> list[list[str]]:
    """`samples_per_image` sampled captions for each image."""
    choose = logit_filters.categorical()
    run = jax.jit(partial(decode_captions, captioner, choose=choose))

    def sample(draw: int) -> list[str]:
        one = partial(run, params, key=jax.random.fold_in(key, draw))
        return _batched_captions(captioner, one, raw_BLP, batch_size)

    samples = [sample(draw) for draw in range(samples_per_image)]
    return [list(texts) for texts in zip(*samples, strict=True)]


def _batched_captions(
    captioner: Captioner,
    run: Callable[..., decoding.DecodeState],
    raw_BLP: np.ndarray,
    batch_size: int,
) -> list[str]:
    """Texts of all images, in batches of one shape."""
    texts: list[str] = []
    for start in range(0, len(raw_BLP), batch_size):
        part = raw_BLP[start : start + batch_size]
        filled = np.pad(part, ((0, batch_size - len(part)), (0, 0), (0, 0)))
        state = jax.device_get(run(filled))
        rows = zip(state.ids_BL, state.length_B, state.done_B, strict=True)
        batch = [captioner.detokenize(ids[1 : size - done]) for ids, size, done in rows]
        texts += batch[: len(part)]
    return texts


def generate(
    name_image: Callable[[Any, jax.Array, Path], str],
    params: Any,
    key: jax.Array,
    *,
    image: Path = Path("sample.png"),
) -> str:
    """Name an image: print the name, and return it.

    Args:
        image: the image's file, of any size; transparent pixels become white.
    """
    name = name_image(params, key, image)
    print(f"{image}: {name}")
    return name
