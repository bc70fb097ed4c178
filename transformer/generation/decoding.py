"""Autoregressive generation: read the prompts into a cache, then one token at a time.

Everything has a static shape and runs in compiled loops: `started` reads the prompts,
`advanced` decodes up to some tokens more, `generated` does both in one program. Prompts
of different lengths share a batch, padded on the right; each row fills its own slots of
the cache, so the padding is neither seen nor stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.axes import constrain
from transformer.generation.logit_filters import Choose
from transformer.network.masks import Tokens
from transformer.network.precision import product


class Language(NamedTuple):
    """What generation asks of a model: functions of it.

    extend(weights, ids_BL, cache, tokens) -> ((x_BLD, w_VD), cache): features of the
    next tokens of each row. empty_cache(rows, length, chunk) -> cache. weights(params):
    the parameters as `extend` takes them, made once, as a cast to the compute dtype.
    """

    extend: Callable[..., Any]
    empty_cache: Callable[..., Any]
    weights: Callable[[Any], Any] = lambda params: params


class Decoding(NamedTuple):
    """Where a batch of texts stands: arrays only.

    ids_BL: int32, prompt and what follows, 0 beyond. length_B: int32, tokens so far.
    done_B: bool, a stop token was drawn. logits_BV: float32, for the next token.
    cache: of the model. drawn: int32 scalar, tokens drawn so far. key: of the draws.
    """

    ids_BL: jax.Array
    length_B: jax.Array
    done_B: jax.Array
    logits_BV: jax.Array
    cache: Any
    drawn: jax.Array
    key: jax.Array


def padded(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of token ids as (ids_BL, length_B), int32, padded with 0 on the right.

    Raises ValueError when there are none, or one is empty: nothing could follow it.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"prompts: expected at least one token each, got {lengths}")
    ids_BL = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        ids_BL[row, : len(prompt)] = prompt
    return ids_BL, np.asarray(lengths, np.int32)


def started(
    language: Language,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    new_tokens: int,
    chunk: int = 256,
) -> Decoding:
    """The prompts read, `chunk` tokens at a time, with room for `new_tokens` more."""
    rows, longest = ids_BL.shape
    chunk = min(chunk, longest)
    chunks = -(-longest // chunk)
    room = longest + new_tokens
    ids_BL = jnp.pad(ids_BL, ((0, 0), (0, max(room, chunks * chunk) - longest)))
    cache = language.empty_cache(rows, room, chunk)

    def read(part: int, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        logits_BV, cache = carry
        start = part * chunk
        ids_BC = jax.lax.dynamic_slice_in_dim(ids_BL, start, chunk, axis=1)
        index_BC = jnp.broadcast_to(start + jnp.arange(chunk), (rows, chunk))
        segment_BC = (index_BC < length_B[:, None]).astype(jnp.int32)
        tokens = Tokens(index_BC, index_BC, segment_BC)
        (x_BCD, w_VD), cache = language.extend(params, ids_BC, cache, tokens)
        at_B = jnp.clip(length_B - 1 - start, 0, chunk - 1)
        x_BD = jnp.take_along_axis(x_BCD, at_B[:, None, None], axis=1)[:, 0]
        last_here_B = (length_B - 1) // chunk == part
        here_BV = constrain(product("BD,VD->BV", x_BD, w_VD), "BV")
        return jnp.where(last_here_B[:, None], here_BV, logits_BV), cache

    one = _next(length_B, length_B)
    (_, w_VD), _ = jax.eval_shape(language.extend, params, ids_BL[:, :1], cache, one)
    logits_BV = jnp.zeros((rows, w_VD.shape[0]), jnp.float32)
    logits_BV, cache = jax.lax.fori_loop(0, chunks, read, (logits_BV, cache))
    done_B = jnp.zeros((rows,), bool)
    return Decoding(ids_BL, length_B, done_B, logits_BV, cache, jnp.int32(0), key)


def eased(params: Any, state: Decoding) -> tuple[Any, Decoding]:
    """Weights, and the state that was `started` with them, as `advanced` reads them
    fastest: one row on a CPU in float32, where they are bfloat16, all else unchanged.

    A token of one row takes as long as the weights take to be read, and XLA on a CPU
    multiplies a vector with a bfloat16 matrix by widening the matrix each time.
    """
    if state.ids_BL.shape[0] > 1 or jax.default_backend() != "cpu":
        return params, state

    def widened(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(widened, (params, state))


def grown(language: Language, state: Decoding, *, room: int) -> Decoding:
    """`state` with room for rows of `room` tokens in all, prompt included.

    A token reads the whole cache, so one that grows with the text is read faster than
    one as long as the text may become. A rolling cache stays as it is.
    """
    rows, length = state.ids_BL.shape
    # One token at a time from here on: a window's cache needs no more than its reach.
    roomy = jax.eval_shape(lambda: language.empty_cache(rows, room, 1))

    def padded(old: jax.Array, new: jax.ShapeDtypeStruct) -> jax.Array:
        sizes = zip(old.shape, new.shape, strict=True)
        return jnp.pad(old, [(0, max(0, after - before)) for before, after in sizes])

    return state._replace(
        ids_BL=jnp.pad(state.ids_BL, ((0, 0), (0, max(0, room - length)))),
        cache=jax.tree.map(padded, state.cache, roomy),
    )


def _next(length_B: jax.Array, segment_B: jax.Array) -> Tokens:
    index_BL = length_B[:, None]
    return Tokens(index_BL, index_BL, segment_B[:, None])


def advanced(
    language: Language,
    params: Any,
    state: Decoding,
    *,
    choose: Choose,
    tokens: int | jax.Array,
    stop: Sequence[int] = (),
) -> Decoding:
    """`state` with up to `tokens` more in each row; ends early when all rows have
    drawn one of the ids in `stop`, which is kept as the row's last token."""
    rows = jnp.arange(state.ids_BL.shape[0])
    stops = jnp.asarray(list(stop), jnp.int32)[None]

    limit = state.drawn + tokens

    def going(state: Decoding) -> jax.Array:
        return (state.drawn < limit) & ~state.done_B.all()

    def step(state: Decoding) -> Decoding:
        # Keyed by the number of draws, so bursts of any size say the same.
        key = jax.random.fold_in(state.key, state.drawn)
        chosen_B = choose(state.logits_BV, key)
        at_B = jnp.where(state.done_B, state.ids_BL.shape[1], state.length_B)
        new = _next(state.length_B, (~state.done_B).astype(jnp.int32))
        (x_BLD, w_VD), cache = language.extend(
            params, chosen_B[:, None], state.cache, new
        )
        logits_BLV = constrain(product("BLD,VD->BLV", x_BLD, w_VD), "BLV")
        return Decoding(
            ids_BL=state.ids_BL.at[rows, at_B].set(chosen_B, mode="drop"),
            length_B=state.length_B + (~state.done_B),
            done_B=state.done_B | (chosen_B[:, None] == stops).any(-1),
            logits_BV=logits_BLV[:, 0],
            cache=cache,
            drawn=state.drawn + 1,
            key=state.key,
        )

    return jax.lax.while_loop(going, step, state)


def generated(
    language: Language,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
    stop: Sequence[int] = (),
    chunk: int = 256,
) -> Decoding:
    """Prompts to texts in one compilable program: `started`, then `advanced`."""
    params = language.weights(params)
    state = started(
        language, params, ids_BL, length_B, key, new_tokens=new_tokens, chunk=chunk
    )
    params, state = eased(params, state)
    return advanced(
        language, params, state, choose=choose, tokens=new_tokens, stop=stop
    )
