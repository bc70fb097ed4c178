"""Programs that generate: greedily with the cache inside, or one token with the cache
as inputs and outputs; and the inputs that they share with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.generation import beam_search, decoding, logit_filters
from transformer.interchange import text_to_text, tokenizer
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.programs import GreedyLoop, Input, Program
from transformer.models import decoder
from transformer.network import masks, stack
from transformer.network.kv_cache import KVCache
from transformer.network.masks import TokenPositions

# Of a cache.
KINDS = "key", "value"
# Outputs of generation: 0 beyond the lengths.
GENERATED = "sequences", "new_lengths"


def decoder_step(opened: PretrainedFolder, prompt: int, new: int) -> Program:
    """The logits after one more token of rows that have `past_length` each. The cache
    goes in and comes out, as in `decoder_with_past` of other exporters, with room for
    `prompt` + `new` tokens."""
    _check_length(prompt, new, opened.sizes.length)
    # The cache of scanned layers is one array.
    unrolled, room = opened.net.unroll(), prompt + new
    net = opened.net if unrolled is None else unrolled
    shapes = jax.eval_shape(lambda: net.empty_cache(1, room, 1, jnp.float32))

    def apply(
        params: Any, ids_BL: jax.Array, past: jax.Array, *arrays: jax.Array
    ) -> tuple[jax.Array, ...]:
        if unrolled is not None:
            layers = stack.unstack_layer_params(params["stack"])
            params = {**params, "stack": layers}
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        caches = [_cache(k_BGMK, v_BGMK, past) for k_BGMK, v_BGMK in pairs]
        index_BL = past[None, None]
        tokens = TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))
        inputs = ids_BL, caches, tokens
        readout, caches = net.apply({"params": params}, *inputs, method="decode")
        present = [a for cache in caches for a in (cache.k_BGMK, cache.v_BGMK)]
        return (decoder.logits(readout), *present)

    names = [f"{layer}.{kind}" for layer in range(len(shapes)) for kind in KINDS]
    arrays = [a for cache in shapes for a in (cache.k_BGMK, cache.v_BGMK)]
    inputs = (
        Input("input_ids", ("B", 1), opened.sizes.vocab_size),
        Input("past_length", (), room),
        *(
            Input(f"past_key_values.{name}", ("B", *array.shape[1:]))
            for name, array in zip(names, arrays, strict=True)
        ),
    )
    outputs = "logits", *(f"present.{name}" for name in names)
    return Program("step", apply, inputs, outputs)


def decoder_generation(opened: PretrainedFolder, step: Program, new: int) -> Program:
    """input_ids: prompts, padded on the right to what the cache of `step` holds beside
    `new` tokens; lengths: how many of them are there. sequences: with the new tokens, 0
    beyond; new_lengths: of those."""
    prompt = step.inputs[1].below - new
    fns = decoding.decode_fns(opened.net, "float32")
    stop = tokenizer.configured_ends(opened.folder)

    def apply(
        params: Any, ids_BL: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, ...]:
        return _greedy(fns, params, ids_BL, length_B, new=new, stop=stop)

    inputs = _prompt("input_ids", prompt, opened.sizes.vocab_size)
    loop = GreedyLoop(step, new, tuple(stop))
    return Program("generate", apply, inputs, GENERATED, loop=loop)


def _cache(k_BGMK: jax.Array, v_BGMK: jax.Array, past: jax.Array) -> KVCache:
    """The cache of keys and values of `past` tokens, each in the slot of its index
    modulo their number; the last ones, where there are fewer slots (a window)."""
    rows, _, slots, _ = k_BGMK.shape
    slot_M = jnp.arange(slots, dtype=jnp.int32)
    round_M = (past - 1 - slot_M + slots) // slots
    index_M = slot_M + slots * jnp.maximum(round_M - 1, 0)
    shape = rows, slots
    index_BM = jnp.broadcast_to(index_M[None], shape)
    is_token_BM = jnp.broadcast_to((round_M > 0)[None], shape).astype(jnp.int32)
    return KVCache(k_BGMK, v_BGMK, index_BM, index_BM, is_token_BM)


def text_generation(opened: PretrainedFolder, new: int) -> Program:
    """sequences: targets with their start; new_lengths: of these."""
    size = opened.sizes.vocab_size
    longest = getattr(opened.sizes, "length", text_to_text.LENGTH) - 1
    if new > longest:
        raise ValueError(f"--new_tokens: expected at most {longest}, got {new}")
    start, ends, excluded, end = text_to_text.read_targets(opened.folder, size)

    def apply(
        params: Any, source_BL: jax.Array, segment_BL: jax.Array
    ) -> tuple[jax.Array, ...]:
        source = source_BL, document(source_BL, segment_BL)
        fns = _with_memory(opened, params, *source)
        ids_BL = jnp.full_like(source_BL[:, :1], start)
        length_B = jnp.ones_like(ids_BL[:, 0])
        chosen: Any = {"stop": ends, "excluded": excluded, "forced_end": end}
        return _greedy(fns, params, ids_BL, length_B, new=new, **chosen)

    limits = length_limits(opened, "S")
    return Program("generate", apply, source_inputs(size), GENERATED, limits)


def speech_generation(opened: PretrainedFolder, prompt: int, new: int) -> Program:
    """decoder_input_ids: the tokens of language and task, padded on the right, of which
    there are `lengths`."""
    sizes = opened.sizes
    _check_length(prompt, new, sizes.target_length)
    _, ends, excluded, _ = text_to_text.read_targets(opened.folder, sizes.vocab_size)

    def apply(
        params: Any, frames: jax.Array, ids_BL: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, ...]:
        fns = _with_memory(opened, params, *speech_frames(opened, frames))
        chosen: Any = {"stop": ends, "excluded": excluded}
        return _greedy(fns, params, ids_BL, length_B, new=new, **chosen)

    ids = _prompt("decoder_input_ids", prompt, sizes.vocab_size)
    return Program("generate", apply, (speech_input(opened), *ids), GENERATED)


def _prompt(name: str, prompt: int, vocab_size: int) -> tuple[Input, ...]:
    ids = Input(name, ("B", prompt), vocab_size)
    return ids, Input("lengths", ("B",), prompt + 1)


def _check_length(prompt: int, new: int, length: int) -> None:
    if prompt + new > length:
        raise ValueError(
            f"--prompt_tokens: expected at most {length} with the {new} of "
            f"--new_tokens, got {prompt}"
        )


def _greedy(
    fns: decoding.DecodeFns,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    new: int,
    stop: Sequence[int],
    excluded: Sequence[int] = (),
    forced_end: int | None = None,
) -> tuple[jax.Array, ...]:
    """The prompts with the most likely token each time, 0 beyond, and their lengths.
    forced_end: the last of `new` tokens, where a row has not ended before."""
    longest = ids_BL.shape[1]
    state = decoding.prefill(
        fns, params, ids_BL, length_B, jax.random.key(0), new_tokens=new, chunk=longest
    )
    keep = logit_filters.exclude(excluded) if excluded else lambda logits_BV: logits_BV

    def choose(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
        return logit_filters.greedy(keep(logits_BV), key)

    state = decoding.decode(fns, params, state, choose=choose, tokens=new, stop=stop)
    ids_BL, index_BL = state.ids_BL, jnp.arange(longest + new)[None]
    if forced_end is not None:
        is_cut_B = ~state.done_B & (state.length_B == length_B + new)
        is_last_BL = index_BL == state.length_B[:, None] - 1
        ids_BL = jnp.where(is_last_BL & is_cut_B[:, None], forced_end, ids_BL)
    # Without the padding of the prompts.
    is_token_BL = index_BL < state.length_B[:, None]
    return jnp.where(is_token_BL, ids_BL, 0), state.length_B


def _with_memory(
    opened: PretrainedFolder, params: Any, inputs: jax.Array, source: TokenPositions
) -> decoding.DecodeFns:
    """The decoder of a source that is encoded once."""
    fns = decoding.decode_fns(opened.net, "float32")
    weights = {"params": params}
    memory = opened.net.apply(weights, inputs, source, method="cache_memory")
    return beam_search.with_cross_cache(fns, memory)


def document(ids_BL: jax.Array, segment_BL: jax.Array | None = None) -> TokenPositions:
    """Of rows of one document; segment_BL: 0 for padding."""
    tokens = masks.single_document(ids_BL.shape[1])
    return tokens if segment_BL is None else tokens._replace(segment_BL=segment_BL)


def speech_frames(
    opened: PretrainedFolder, frames: jax.Array
) -> tuple[jax.Array, TokenPositions]:
    """Frames of transformers (B, mels, L) as ours, and their tokens."""
    raw_BLP = frames.swapaxes(1, 2)
    return raw_BLP, document(jnp.ones((1, opened.sizes.source_length), jnp.int32))


def source_inputs(vocab_size: int) -> tuple[Input, ...]:
    """The inputs of a source: its ids, and 0 where they are padding."""
    mask = Input("attention_mask", ("B", "S"), 2)
    return Input("input_ids", ("B", "S"), vocab_size), mask


def length_limits(opened: PretrainedFolder, *letters: str) -> tuple[str, ...]:
    """The limits of these open sizes, where the net has one."""
    length = getattr(opened.sizes, "length", None)
    return () if length is None else tuple(f"{one} <= {length}" for one in letters)


def speech_input(opened: PretrainedFolder) -> Input:
    """The input of the frames of sound."""
    sizes = opened.sizes
    return Input("input_features", ("B", sizes.mels, 2 * sizes.source_length))
