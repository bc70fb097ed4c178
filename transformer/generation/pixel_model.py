"""Class-conditional images from a decoder of pixels, by cached decoding.

A row has the token of its class, which follows those of pixels, then one token for
each pixel in raster order (`models/image_gpt.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.generation import decoding, logit_filters, terminal_images


def pixels_only(pixel_tokens: int) -> logit_filters.Filter:
    """Excludes the tokens of classes, which follow the `pixel_tokens` of pixels."""

    def keep(logits_BV: jax.Array) -> jax.Array:
        is_pixel_V = jnp.arange(logits_BV.shape[1]) < pixel_tokens
        return jnp.where(is_pixel_V[None], logits_BV, -jnp.inf)

    return keep


class PixelModel(NamedTuple):
    """A decoder of pixels of `classes` classes.

    tokenizer: has `vocab_size`, `side` and `decode`, as
    `data.images.gray_levels.QuantizedImages`. choose: a pixel from its logits.
    """

    fns: decoding.DecodeFns
    tokenizer: Any
    choose: logit_filters.Choose
    classes: int


def from_net(net: Any, tokenizer: Any, *, compute_dtype: Any) -> PixelModel:
    """A `PixelModel` of a decoder module; `decoding.decode_dtype` says in which dtype
    it decodes."""
    fns = decoding.decode_fns(net, decoding.decode_dtype(compute_dtype))
    choose = logit_filters.categorical(pixels_only(tokenizer.vocab_size))
    classes = net.vocab_size - tokenizer.vocab_size
    return PixelModel(fns, tokenizer, choose, classes)


def sample(
    model: PixelModel, params: Any, label: Any, key: jax.Array, prefix: Any = None
) -> np.ndarray:
    """8-bit images of the classes `label` [N]; with `prefix` [N, ...], the tokens of
    each image's first pixels, their completions. ValueError for a class or a token that
    the model does not have."""
    tokenizer = model.tokenizer
    checks.check_indices("class", label, model.classes)
    checks.check_indices(
        "prefix", [] if prefix is None else prefix, tokenizer.vocab_size
    )
    first = tokenizer.vocab_size + np.asarray(label, np.int32)[:, None]
    prompt = first if prefix is None else np.concatenate([first, prefix], axis=1)
    generate_rows = partial(
        decoding.generate,
        model.fns,
        choose=model.choose,
        new_tokens=tokenizer.side**2 + 1 - prompt.shape[1],
    )
    lengths = np.full(len(prompt), prompt.shape[1], np.int32)
    ids = jax.jit(lambda *a: generate_rows(*a).ids_BL)(params, prompt, lengths, key)
    return tokenizer.decode(np.asarray(ids)[:, 1:])


def generate(
    model: PixelModel,
    params: Any,
    key: jax.Array,
    *,
    digits: str = "2026",
    sample_seed: checks.Seed = 0,
) -> np.ndarray:
    """Sample digits: print them as characters, and return the 8-bit images.

    Args:
        digits: the classes, in a row.
        sample_seed: another number gives other images.
    """
    label = terminal_images.parse_digits(digits)
    images = sample(model, params, label, jax.random.fold_in(key, sample_seed))
    print(terminal_images.ascii_art(images))
    return images
