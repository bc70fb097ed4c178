"""Sampling from a generative process, step by step from its start state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.checks import at_least, check_indices
from transformer.processes.process import Process

Predict = Callable[[jax.Array, jax.Array], jax.Array]


class Start(NamedTuple):
    """Rows x (B, ...) of data that sampling starts from: corrupted as of `time`, they
    are what the process would have there (SDEdit, Meng et al. 2021, arXiv 2108.01073).
    is_known_B: bool, False for rows that start from the prior."""

    x: jax.Array
    is_known_B: jax.Array
    time: float


def sample(
    process: Process,
    predict: Predict,
    key: jax.Array,
    *,
    like: Any,
    steps: int,
    start: Start | None = None,
) -> jax.Array:
    """A sample of the shape and dtype of `like`, in one compiled loop.

    predict(x, t_B): the model's prediction from x at time t, as trained by
    `objectives.denoising`. steps: of the whole time; fewer are faster and coarser; an
    autoregressive process takes exactly L. start: what replaces the rows at the first
    step that is not before its time.
    """
    at_least("steps", steps, 1)
    times = process.times(steps)
    start_key, step_keys = (jax.random.fold_in(key, i) for i in (0, 1))

    def step(number: jax.Array, x: jax.Array) -> jax.Array:
        t, next_t = times[number], times[number + 1]
        prediction = predict(x, jnp.broadcast_to(t, x.shape[:1]))
        step_key = jax.random.fold_in(step_keys, number)
        return process.update(x, prediction, t, next_t, step_key)

    x = process.prior(start_key, like)
    if start is None:
        return jax.lax.fori_loop(0, steps, step, x)
    first = jnp.searchsorted(times, start.time)
    # Where all rows have a start, the steps before it change nothing.
    begin = jnp.where(start.is_known_B.all(), first, 0)
    x = jax.lax.fori_loop(begin, first, step, x)
    t_B = jnp.broadcast_to(times[first], x.shape[:1])
    known = start.is_known_B.reshape(-1, *[1] * (x.ndim - 1))
    noised = process.corrupt(start.x, t_B, jax.random.fold_in(key, 2)).inputs
    return jax.lax.fori_loop(first, steps, step, jnp.where(known, noised, x))


def classifier_free_guidance(
    conditional: Predict, unconditional: Predict, *, scale: float
) -> Predict:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, equation 6):
    scale 1 is `conditional`; larger scales exaggerate the effect of the condition."""

    def guide(x: jax.Array, t_B: jax.Array) -> jax.Array:
        baseline = unconditional(x, t_B)
        return baseline + scale * (conditional(x, t_B) - baseline)

    return guide


def sample_classes(
    process: Process,
    predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    label_B: jax.Array,
    key: jax.Array,
    *,
    like: Any,
    steps: int,
    null_label: int,
    scale: float,
) -> jax.Array:
    """A sample of each class in `label_B`, with classifier-free guidance.

    predict(label_B, x, t_B): the model; `null_label` is its label for no class. like:
    shape and dtype of one row.
    """
    null_B = jnp.full_like(label_B, null_label)
    both = partial(predict, label_B), partial(predict, null_B)
    rows = jax.ShapeDtypeStruct((len(label_B), *like.shape[1:]), like.dtype)
    guide = classifier_free_guidance(*both, scale=scale)
    return sample(process, guide, key, like=rows, steps=steps)


def class_sampler(
    process: Process,
    predict: Callable[..., jax.Array],
    decode: Callable[[Any], np.ndarray],
    *,
    like: Any,
    null_label: int,
    scale: float,
) -> Callable[..., np.ndarray]:
    """The function `sample(params, label, key, *, steps)`: 8-bit images of the classes
    `label` [N], by `sample_classes` in one compiled program. It raises ValueError for a
    label that is not below `null_label`.

    predict(params, label_B, x, t_B): the model. decode: from sampled rows to images.
    """

    @partial(jax.jit, static_argnames="steps")
    def rows(params: Any, label_B: jax.Array, key: jax.Array, steps: int) -> jax.Array:
        return sample_classes(
            process,
            partial(predict, params),
            label_B,
            key,
            like=like,
            steps=steps,
            null_label=null_label,
            scale=scale,
        )

    def sample(params: Any, label: Any, key: jax.Array, *, steps: int) -> np.ndarray:
        check_indices("class", label, null_label)
        return decode(rows(params, jnp.asarray(label, jnp.int32), key, steps=steps))

    return sample


def text_sampler(
    process: Process,
    predict: Callable[..., jax.Array],
    encode: Callable[[Any], tuple[Any, ...]],
    decode: Callable[[Any], np.ndarray],
    *,
    like: Any,
    scale: float,
    start: Callable[[Any], tuple[Any, Any]] | None = None,
    start_time: float = 0.0,
) -> Callable[..., np.ndarray]:
    """The function `sample(params, texts, key, *, steps)`: 8-bit images for the texts,
    with classifier-free guidance, in one compiled program.

    predict(params, text, x, t_B): the model. encode: texts to (ids_BL, segment_BL),
    and arrays of what else the model is conditioned on. decode: from sampled rows to
    images. like: shape and dtype of one row. start: of texts, the rows that
    sampling starts from at `start_time` and which of them are known, as of `Start`.
    """

    @partial(jax.jit, static_argnames="steps")
    def rows(
        params: Any,
        text: Any,
        null_text: Any,
        key: jax.Array,
        steps: int,
        start: Start | None,
    ) -> jax.Array:
        null = jax.tree.map(lambda a, b: jnp.broadcast_to(b, a.shape), text, null_text)
        both = partial(predict, params, text), partial(predict, params, null)
        guide = classifier_free_guidance(*both, scale=scale)
        shape = len(text[0]), *like.shape[1:]
        rows = jax.ShapeDtypeStruct(shape, like.dtype)
        return sample(process, guide, key, like=rows, steps=steps, start=start)

    def sample_texts(
        params: Any, texts: Any, key: jax.Array, *, steps: int
    ) -> np.ndarray:
        text, null_text = encode(texts), encode([""])
        begin = Start(*start(texts), start_time) if start else None
        return decode(rows(params, text, null_text, key, steps, begin))

    return sample_texts
