"""Autoregressive decoding with a key-value cache.

All shapes are static and all loops are compiled: `prefill` fills the cache with the
prompts, `decode` samples up to some number of tokens, `generate` does both in one
program. Prompts of different lengths share a batch, padded on the right; each row
writes to its own slots of the cache, and padding is neither attended to nor cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from transformer import cpu_tuning
from transformer.axes import constrain
from transformer.checks import check_indices
from transformer.generation.logit_filters import Choose
from transformer.network import precision, stack
from transformer.network.masks import TokenPositions
from transformer.network.precision import DecodeDtype, unembed


class DecodeFns(NamedTuple):
    """A decoder model as pure functions.

    decode(weights, ids_BL, cache, tokens) -> ((x_BLD, w_VD), cache): features of the
    next tokens of each row, and the unembedding, an `precision.Table`.
    empty_cache(rows, length, chunk) -> cache. cast_weights(params) -> weights for
    `decode`, in the dtype of decoding. unroll: makes the same functions with a program
    of its own for each layer; None where they are so.
    """

    decode: Callable[..., Any]
    empty_cache: Callable[..., Any]
    cast_weights: Callable[[Any], Any] = lambda params: params
    unroll: Callable[[], DecodeFns] | None = None


def decode_dtype(compute_dtype: Any) -> Any:
    """dtype of decoding for a model trained in `compute_dtype`: float32 on a CPU.

    The products of one token are bound by memory bandwidth, and XLA has no fast
    bfloat16 path for them on CPUs.
    """
    return "float32" if cpu_tuning.on_cpu() else compute_dtype


def decode_fns(net: Any, dtype: Any) -> DecodeFns:
    """`DecodeFns` of a module with `decode` and `empty_cache`, and `unroll` where its
    stack may be scanned; weights and cache in `dtype`."""

    def decode(weights: Any, *arguments: Any) -> Any:
        return net.apply({"params": weights}, *arguments, method="decode")

    unrolled = net.unroll() if hasattr(net, "unroll") else None
    return DecodeFns(
        decode=decode,
        empty_cache=lambda *sizes: net.empty_cache(*sizes, dtype),
        cast_weights=lambda params: precision.cast_weights(params, dtype),
        unroll=partial(decode_fns, unrolled, dtype) if unrolled is not None else None,
    )


def narrow(fns: DecodeFns, dtype: DecodeDtype) -> DecodeFns:
    """The same functions for weights of `dtype`; float32 is what `decode_dtype` says
    for a CPU. ValueError where `narrow_weights.require` says so."""
    from transformer.network import narrow_weights

    narrow_weights.require(dtype)
    if dtype == "float32":
        return fns
    return fns._replace(
        cast_weights=lambda params: narrow_weights.narrow(
            fns.cast_weights(params), dtype
        )
    )


def cast_weights(fns: DecodeFns, params: Any) -> Any:
    """`fns.cast_weights(params)`, arrays on the devices. Leaves that keep their dtype
    are those of `params`, not copies: a program would copy them all."""
    return fns.cast_weights(jax.tree.map(jnp.asarray, params))


class DecodeState(NamedTuple):
    """A batch of partly decoded texts: arrays only.

    ids_BL: int32, the prompt and the new tokens, 0 beyond. length_B: int32, tokens so
    far. done_B: bool, a stop token was sampled. logits_BV: float32, for the next token.
    cache: of the model. new_tokens: int32 scalar, decoding steps so far. key: of the
    sampling.
    """

    ids_BL: jax.Array
    length_B: jax.Array
    done_B: jax.Array
    logits_BV: jax.Array
    cache: Any
    new_tokens: jax.Array
    key: jax.Array


def pad_prompts(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of token ids as (ids_BL, length_B), int32, padded with 0 on the right.

    ValueError where there is no prompt, or an empty one.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"prompts: expected at least one token each, got {lengths}")
    ids_BL = np.zeros((len(prompts), max(lengths)), np.int32)
    for row, prompt in enumerate(prompts):
        ids_BL[row, : len(prompt)] = prompt
    return ids_BL, np.asarray(lengths, np.int32)


def _next_position(length_B: jax.Array, segment_B: jax.Array) -> TokenPositions:
    index_BL = length_B[:, None]
    return TokenPositions(index_BL, index_BL, segment_B[:, None])


def vocab_size(fns: DecodeFns, weights: Any, *, rows: int) -> int:
    """The number of tokens that the model knows; rows: of its cache."""
    cache = jax.eval_shape(lambda: fns.empty_cache(rows, 1, 1))
    length_B = jax.ShapeDtypeStruct((rows,), jnp.int32)
    position = jax.eval_shape(_next_position, length_B, length_B)
    ids_BL = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    (_, w_VD), _ = jax.eval_shape(fns.decode, weights, ids_BL, cache, position)
    return w_VD.shape[0]


def prefill(
    fns: DecodeFns,
    weights: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    new_tokens: int,
    chunk: int = 256,
) -> DecodeState:
    """The state after the prompts, `chunk` tokens at a time, with room for `new_tokens`
    more. ValueError for ids outside the vocabulary, where they are known already."""
    rows, longest = ids_BL.shape
    chunk = min(chunk, longest)
    chunks = -(-longest // chunk)
    known = None
    if not isinstance(ids_BL, jax.core.Tracer):
        known = vocab_size(fns, weights, rows=rows)
        check_indices("token of a prompt", ids_BL, known)
    cache_length = longest + new_tokens
    ids_BL = jnp.pad(ids_BL, ((0, 0), (0, max(cache_length, chunks * chunk) - longest)))
    cache = fns.empty_cache(rows, cache_length, chunk)

    def read(part: int, cache: Any) -> tuple[jax.Array, Any]:
        start = part * chunk
        ids_BC = jax.lax.dynamic_slice_in_dim(ids_BL, start, chunk, axis=1)
        index_BC = jnp.broadcast_to(start + jnp.arange(chunk), (rows, chunk))
        segment_BC = (index_BC < length_B[:, None]).astype(jnp.int32)
        tokens = TokenPositions(index_BC, index_BC, segment_BC)
        (x_BCD, w_VD), cache = fns.decode(weights, ids_BC, cache, tokens)
        at_B = jnp.clip(length_B - 1 - start, 0, chunk - 1)
        x_BD = jnp.take_along_axis(x_BCD, at_B[:, None, None], axis=1)[:, 0]
        return constrain(unembed("BD,VD->BV", x_BD, w_VD), "BV"), cache

    def step(part: int, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        logits_BV, cache = carry
        here_BV, cache = read(part, cache)
        last_here_B = (length_B - 1) // chunk == part
        return jnp.where(last_here_B[:, None], here_BV, logits_BV), cache

    if chunks == 1 and known is None:
        logits_BV, cache = read(0, cache)
    else:  # Where it is not part of a program, the loop makes one.
        known = known or vocab_size(fns, weights, rows=rows)
        logits_BV = jnp.zeros((rows, known), jnp.float32)
        logits_BV, cache = jax.lax.fori_loop(0, chunks, step, (logits_BV, cache))
    done_B = jnp.zeros((rows,), bool)
    return DecodeState(ids_BL, length_B, done_B, logits_BV, cache, jnp.int32(0), key)


def float32_on_cpu(weights: Any, state: DecodeState) -> tuple[Any, DecodeState]:
    """Weights and state with bfloat16 leaves in float32, for one row on a CPU;
    unchanged otherwise, as where `decode_dtype` is float32 already.

    A decoding step of one row is bound by reading the weights, and XLA on a CPU
    multiplies a vector with a bfloat16 matrix by widening the matrix each time. Not
    to be compiled: a program copies the leaves that stay as they are.
    """
    if state.ids_BL.shape[0] > 1 or jax.default_backend() != "cpu":
        return weights, state

    def widen(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(widen, (weights, state))


def unroll_layers_on_cpu(
    fns: DecodeFns, weights: Any, state: DecodeState
) -> tuple[DecodeFns, Any, DecodeState]:
    """Functions, weights and state with arrays of their own for each layer, on a CPU;
    unchanged otherwise. Compiling takes longer, and the layers' weights are in memory
    a second time.

    A loop over layers copies the weights of each out of the stack before it multiplies
    them, so that a token takes almost twice as long.
    """
    unrolled = fns_on_cpu(fns)
    if unrolled is None:
        return fns, weights, state
    return unrolled, unstack_weights(weights), unstack_cache(state)


def fns_on_cpu(fns: DecodeFns) -> DecodeFns | None:
    """The functions of `unroll_layers_on_cpu`; None where it changes nothing. They take
    `unstack_weights` of weights and `unstack_cache` of states."""
    if fns.unroll is None or jax.default_backend() != "cpu":
        return None
    return fns.unroll()


def unstack_weights(weights: Any) -> Any:
    """The weights of a scanned stack, with arrays of their own for each layer."""
    layers = jax.jit(stack.unstack_layer_params)(weights["stack"])
    return {**weights, "stack": layers}


def unstack_cache(state: DecodeState) -> DecodeState:
    """A state of a scanned stack, with caches of their own for each layer."""
    return state._replace(cache=jax.jit(stack.unstack_cache)(state.cache))


def grow_cache(fns: DecodeFns, state: DecodeState, *, cache_length: int) -> DecodeState:
    """`state` with room for rows of `cache_length` tokens in all, prompt included.

    A step reads the whole cache, so a cache that grows with the text is faster than
    one of the final length. The rolling cache of a window does not grow.
    """
    rows, length = state.ids_BL.shape
    # One token at a time from here on: a window's cache needs no slots for a chunk.
    target = jax.eval_shape(lambda: fns.empty_cache(rows, cache_length, 1))

    def pad(old: jax.Array, new: jax.ShapeDtypeStruct) -> jax.Array:
        sizes = zip(old.shape, new.shape, strict=True)
        return jnp.pad(old, [(0, max(0, after - before)) for before, after in sizes])

    return state._replace(
        ids_BL=jnp.pad(state.ids_BL, ((0, 0), (0, max(0, cache_length - length)))),
        cache=jax.tree.map(pad, state.cache, target),
    )


def decode(
    fns: DecodeFns,
    weights: Any,
    state: DecodeState,
    *,
    choose: Choose,
    tokens: int | jax.Array,
    stop: Sequence[int] = (),
) -> DecodeState:
    """`state` with up to `tokens` more tokens in each row; ends early when all rows
    have sampled one of the ids in `stop`, which is kept as the row's last token.

    A row ends where its room ends. ValueError where `state` has no room for `tokens`
    and both are known (not traced).
    """
    rows, room = jnp.arange(state.ids_BL.shape[0]), state.ids_BL.shape[1]
    stops = jnp.asarray(list(stop), jnp.int32)[None]
    limit = state.new_tokens + tokens
    _check_room(state, tokens)

    def is_at_end(state: DecodeState) -> jax.Array:
        return state.done_B | (state.length_B >= room)

    def has_unfinished(state: DecodeState) -> jax.Array:
        return (state.new_tokens < limit) & ~is_at_end(state).all()

    def step(state: DecodeState) -> DecodeState:
        # Keyed by the number of the step, so that the size of a burst does not matter.
        key = jax.random.fold_in(state.key, state.new_tokens)
        token_B = choose(state.logits_BV, key)
        ended_B = is_at_end(state)
        at_B = jnp.where(ended_B, room, state.length_B)
        position = _next_position(state.length_B, (~ended_B).astype(jnp.int32))
        (x_BLD, w_VD), cache = fns.decode(
            weights, token_B[:, None], state.cache, position
        )
        logits_BLV = unembed("BLD,VD->BLV", x_BLD, w_VD)
        return DecodeState(
            ids_BL=state.ids_BL.at[rows, at_B].set(token_B, mode="drop"),
            length_B=state.length_B + (~ended_B),
            done_B=state.done_B | (~ended_B & (token_B[:, None] == stops).any(-1)),
            logits_BV=constrain(logits_BLV, "BLV")[:, 0],
            cache=cache,
            new_tokens=state.new_tokens + 1,
            key=state.key,
        )

    return jax.lax.while_loop(has_unfinished, step, state)


def _check_room(state: DecodeState, tokens: int | jax.Array) -> None:
    if any(isinstance(a, jax.core.Tracer) for a in (state.length_B, tokens)):
        return
    needed, room = int(state.length_B.max()) + int(tokens), state.ids_BL.shape[1]
    if needed > room:
        raise ValueError(
            f"expected room for {needed} tokens in a row (`prefill` with more "
            f"new_tokens, or `grow_cache`), got {room}"
        )


def generate(
    fns: DecodeFns,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    choose: Choose,
    new_tokens: int,
    stop: Sequence[int] = (),
    chunk: int = 256,
) -> DecodeState:
    """`prefill`, then `decode`, in one compilable program."""
    weights = fns.cast_weights(params)
    state = prefill(
        fns, weights, ids_BL, length_B, key, new_tokens=new_tokens, chunk=chunk
    )
    weights, state = float32_on_cpu(weights, state)
    return decode(fns, weights, state, choose=choose, tokens=new_tokens, stop=stop)
