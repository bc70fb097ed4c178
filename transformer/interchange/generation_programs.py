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
from transformer.network import block, masks, stack
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
    shapes = _keys_values(
        jax.eval_shape(lambda: net.empty_cache(1, room, 1, jnp.float32))
    )

    def apply(
        params: Any, ids_BL: jax.Array, past: jax.Array, *arrays: jax.Array
    ) -> tuple[jax.Array, ...]:
        if unrolled is not None:
            layers = stack.unstack_layer_params(params["stack"])
            params = {**params, "stack": layers}
        caches = [_cache(*pair, past) for pair in _pairs(arrays)]
        inputs = ids_BL, caches, _next_tokens(past)
        readout, caches = net.apply({"params": params}, *inputs, method="decode")
        return decoder.logits(readout), *_keys_values(caches)

    names = _cache_names(shapes)
    inputs = (
        *_step_inputs(opened, room),
        *_cache_inputs(names, [array.shape[1:] for array in shapes]),
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


def _step_inputs(opened: PretrainedFolder, room: int) -> tuple[Input, ...]:
    ids = Input("input_ids", ("B", 1), opened.sizes.vocab_size)
    return ids, Input("past_length", (), room)


def _cache_names(arrays: Sequence[Any], part: str = "") -> list[str]:
    """Of keys and values by turns."""
    layers = range(len(arrays) // len(KINDS))
    return [f"{layer}.{part}{kind}" for layer in layers for kind in KINDS]


def _cache_inputs(names: Sequence[str], sizes: Sequence[Any]) -> list[Input]:
    """sizes: of each, but for the rows."""
    pairs = zip(names, sizes, strict=True)
    return [Input(f"past_key_values.{name}", ("B", *size)) for name, size in pairs]


def _keys_values(caches: Sequence[KVCache]) -> tuple[jax.Array, ...]:
    return tuple(a for cache in caches for a in (cache.k_BGMK, cache.v_BGMK))


def _pairs(arrays: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _smallest(inputs: Sequence[Input]) -> list[jax.ShapeDtypeStruct]:
    """Of one row and one token."""
    sizes = {"B": 1, "S": 1}
    return [jax.ShapeDtypeStruct(one.sizes(**sizes), one.dtype) for one in inputs]


def _next_tokens(past: jax.Array) -> TokenPositions:
    """Of one token behind `past`, in all rows."""
    index_BL = past[None, None]
    return TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))


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


def _memory_cache(
    k_BGMK: jax.Array, v_BGMK: jax.Array, segment_BM: jax.Array | None = None
) -> KVCache:
    """The cache of the keys and values of a whole source; segment_BM: 0 for padding."""
    shape = k_BGMK.shape[0], k_BGMK.shape[2]
    whole = masks.single_document(shape[1])
    tokens = whole if segment_BM is None else whole._replace(segment_BL=segment_BM)
    return KVCache(k_BGMK, v_BGMK, *(jnp.broadcast_to(a, shape) for a in tokens))


def memory(
    opened: PretrainedFolder, inputs: Sequence[Input], limits: Sequence[str]
) -> Program:
    """The keys and values of a source in each layer of the decoder, for all steps.
    inputs: of the source."""

    def apply(params: Any, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        source = _source(opened, *arrays)
        return _keys_values(_cache_memory(opened, params, *source))

    shapes = jax.eval_shape(apply, opened.abstract_params, *_smallest(inputs))
    outputs = tuple(f"present.{name}" for name in _cache_names(shapes, "encoder."))
    return Program("encode", apply, tuple(inputs), outputs, tuple(limits))


def memory_step(opened: PretrainedFolder, encode: Program, room: int) -> Program:
    """As `decoder_step`, of an encoder-decoder: the outputs of `encode` go in behind
    the cache, and its mask before it where the source has one."""
    net, abstract = opened.net, opened.abstract_params
    own = _keys_values(jax.eval_shape(lambda: net.empty_cache(1, room, 1, jnp.float32)))
    cross = jax.eval_shape(encode.apply, abstract, *_smallest(encode.inputs))
    masks_ = [one for one in encode.inputs if one.name == "attention_mask"]

    def apply(
        params: Any, ids_BL: jax.Array, past: jax.Array, *arrays: jax.Array
    ) -> tuple[jax.Array, ...]:
        segment_BL, arrays = arrays[: len(masks_)], arrays[len(masks_) :]
        written = [_cache(*pair, past) for pair in _pairs(arrays[: len(own)])]
        read = [
            _memory_cache(*pair, *segment_BL) for pair in _pairs(arrays[len(own) :])
        ]
        inputs = ids_BL, block.join_caches(written, read), _next_tokens(past)
        readout, caches = net.apply({"params": params}, *inputs, method="decode")
        return decoder.logits(readout), *_keys_values(block.self_caches(caches))

    # The number of a source's tokens is open where it has a mask.
    length = ("S",) if masks_ else cross[0].shape[2:3]
    names = _cache_names(own, "decoder.")
    inputs = (
        *_step_inputs(opened, room),
        *(one._replace(name=f"encoder_{one.name}") for one in masks_),
        *_cache_inputs(names, [a.shape[1:] for a in own]),
        *_cache_inputs(
            _cache_names(cross, "encoder."),
            [(a.shape[1], *length, a.shape[3]) for a in cross],
        ),
    )
    outputs = "logits", *(f"present.{name}" for name in names)
    return Program("step", apply, inputs, outputs, encode.limits)


def text_generation(opened: PretrainedFolder, new: int) -> list[Program]:
    """generate, whose sequences are targets with their start, and new_lengths of these;
    and `memory` and `memory_step`, of which it is a loop."""
    size = opened.sizes.vocab_size
    longest = getattr(opened.sizes, "length", text_to_text.LENGTH) - 1
    if new > longest:
        raise ValueError(f"--new_tokens: expected at most {longest}, got {new}")
    start, ends, excluded, end = text_to_text.read_targets(opened.folder, size)
    chosen: Any = {"stop": ends, "excluded": excluded, "forced_end": end}

    def apply(
        params: Any, source_BL: jax.Array, segment_BL: jax.Array
    ) -> tuple[jax.Array, ...]:
        fns = _with_memory(opened, params, *_source(opened, source_BL, segment_BL))
        ids_BL = jnp.full_like(source_BL[:, :1], start)
        length_B = jnp.ones_like(ids_BL[:, 0])
        return _greedy(fns, params, ids_BL, length_B, new=new, **chosen)

    inputs, limits = source_inputs(size), length_limits(opened, "S")
    whole = Program("generate", apply, inputs, GENERATED, limits)
    parts = _parts(opened, inputs, limits, room=1 + new)
    return _with_loop(whole, parts, new=new, start=start, **chosen)


def speech_generation(opened: PretrainedFolder, prompt: int, new: int) -> list[Program]:
    """As `text_generation`. decoder_input_ids: the tokens of language and task, padded
    on the right, of which there are `lengths`."""
    sizes = opened.sizes
    _check_length(prompt, new, sizes.target_length)
    _, ends, excluded, _ = text_to_text.read_targets(opened.folder, sizes.vocab_size)
    chosen: Any = {"stop": ends, "excluded": excluded}

    def apply(
        params: Any, frames: jax.Array, ids_BL: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, ...]:
        fns = _with_memory(opened, params, *_source(opened, frames))
        return _greedy(fns, params, ids_BL, length_B, new=new, **chosen)

    frames = speech_input(opened)
    ids = _prompt("decoder_input_ids", prompt, sizes.vocab_size)
    whole = Program("generate", apply, (frames, *ids), GENERATED)
    parts = _parts(opened, (frames,), (), room=prompt + new)
    return _with_loop(whole, parts, new=new, **chosen)


def _parts(
    opened: PretrainedFolder,
    inputs: Sequence[Input],
    limits: Sequence[str],
    *,
    room: int,
) -> list[Program]:
    """`memory` and `memory_step`; none where layers are scanned, whose cache is one
    array."""
    empty = jax.eval_shape(lambda: opened.net.empty_cache(1, 1, 1, jnp.float32))
    if not isinstance(empty, list):
        return []
    encode = memory(opened, inputs, limits)
    return [encode, memory_step(opened, encode, room)]


def _with_loop(whole: Program, parts: list[Program], **loop: Any) -> list[Program]:
    if not parts:
        return [whole]
    encode, step = parts
    return [whole._replace(loop=GreedyLoop(step, encode=encode, **loop)), *parts]


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
    memory = _cache_memory(opened, params, inputs, source)
    return beam_search.with_cross_cache(fns, memory)


def _cache_memory(
    opened: PretrainedFolder, params: Any, inputs: jax.Array, source: TokenPositions
) -> Any:
    return opened.net.apply({"params": params}, inputs, source, method="cache_memory")


def _source(
    opened: PretrainedFolder, inputs: jax.Array, segment_BL: jax.Array | None = None
) -> tuple[jax.Array, TokenPositions]:
    """A source and its tokens: ids, some of them padding, or frames of sound."""
    if segment_BL is None:
        return speech_frames(opened, inputs)
    return inputs, document(inputs, segment_BL)


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
