"""Cached decoding equals the full forward pass."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, MODELS, VARIANTS, VOCAB_SIZE, Case, close, random_params

from transformer import axes
from transformer.generation import decoding, logit_filters, text_model
from transformer.models import decoder
from transformer.network import masks, stack

MODERN = MODELS[1]
CACHED = [
    *MODELS,
    *(
        case._replace(make=partial(case.make, depth=1))
        for case in VARIANTS[len(MODELS) :]
    ),
    MODERN._replace(
        name="scanned", make=partial(MODERN.make, stack=stack.ScannedStack)
    ),
    MODERN._replace(name="remat", make=partial(MODERN.make, remat=stack.REMAT["all"])),
]
LENGTHS = np.array([LENGTH, 9, 5], np.int32)
RAGGED = [[7, 3, 9, 2, 5], [4], [1, 8, 8], [60, 2, 2, 6, 1, 0, 5, 3]]


def ids_of(rows: int, seed: int = 3) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, VOCAB_SIZE, (rows, LENGTH)), jnp.int32)


def decode_rows(
    module: Any, params: Any, ids_BL: Any, cache: Any, *, start: int, stop: int, by: int
) -> tuple[jax.Array, Any]:
    """Features of tokens start..stop, `by` at a time, in one compiled loop."""

    def step(cache: Any, at: jax.Array) -> tuple[Any, jax.Array]:
        ids_BC = jax.lax.dynamic_slice_in_dim(ids_BL, at, by, axis=1)
        index_BC = jnp.broadcast_to(at + jnp.arange(by), ids_BC.shape)
        segment_BC = (index_BC < jnp.asarray(LENGTHS)[:, None]).astype(jnp.int32)
        tokens = masks.TokenPositions(index_BC, index_BC, segment_BC)
        (x_BCD, _), cache = module.apply(
            {"params": params}, ids_BC, cache, tokens, method="decode"
        )
        return cache, x_BCD

    cache, x_SBCD = jax.lax.scan(step, cache, jnp.arange(start, stop, by))
    rows, width = ids_BL.shape[0], x_SBCD.shape[-1]
    return x_SBCD.swapaxes(0, 1).reshape(rows, stop - start, width), cache


def with_more_room(module: Any, caches: Any) -> Any:
    """`caches` with room for LENGTH tokens."""
    blank = decoding.DecodeState(*[jnp.zeros((len(LENGTHS), 1))] * 7)
    state = blank._replace(cache=caches)
    return decoding.grow_cache(decode_fns(module), state, cache_length=LENGTH).cache


ROOMS = [pytest.param(case, LENGTH, id=case.name) for case in CACHED] + [
    pytest.param(case, 8, id=f"{case.name}, larger cache")
    for case in CACHED
    if case.mask.max_lookback is not None or case.name in (MODERN.name, "scanned")
]


@pytest.mark.parametrize(("case", "cache_length"), ROOMS)
def test_cached_decoding_equals_the_full_forward(case: Case, cache_length: int) -> None:
    """Ragged rows, decoded four tokens at a time (a prefix mask of four in one chunk),
    then one by one, in a cache of full length or one that grows. The rolling cache of a
    window is shorter than the row."""
    module = case.make()
    params = random_params(module)
    ids_BL = ids_of(len(LENGTHS))

    @jax.jit
    def run(params: Any) -> Any:
        whole_BLD, _ = module.apply(
            {"params": params}, ids_BL, masks.single_document(LENGTH)
        )
        caches = module.empty_cache(len(LENGTHS), cache_length, 4, jnp.float32)
        go_on = partial(decode_rows, module, params, ids_BL)
        first_BLD, caches = go_on(caches, start=0, stop=8, by=4)
        caches = with_more_room(module, caches)
        rest_BLD, caches = go_on(caches, start=8, stop=LENGTH, by=1)
        return whole_BLD, jnp.concatenate([first_BLD, rest_BLD], axis=1), caches

    whole_BLD, cached_BLD, caches = run(params)
    if case.mask.max_lookback is not None:
        slots = jax.tree.leaves(caches)[0].shape[-2]
        assert min(cache_length, case.mask.max_lookback + 3) <= slots < LENGTH
    for row, length in enumerate(LENGTHS):
        close(whole_BLD[row, :length], cached_BLD[row, :length], 2e-5)


def decode_fns(module: Any, dtype: Any = jnp.float32) -> decoding.DecodeFns:
    return decoding.decode_fns(module, dtype)


CHOOSE = {
    "greedy": logit_filters.greedy,
    "categorical": logit_filters.categorical(logit_filters.top_k(20)),
}


@cache
def generate(
    index: int, choose: str, stop: tuple[int, ...] = (), chunk: int = 3
) -> Any:
    module = MODELS[index].make()
    run = partial(
        decoding.generate,
        decode_fns(module),
        choose=CHOOSE[choose],
        new_tokens=8,
        stop=stop,
        chunk=chunk,
    )
    prompts = decoding.pad_prompts(RAGGED)
    return jax.device_get(
        jax.jit(run)(random_params(module), *prompts, jax.random.key(5))
    )


@pytest.mark.parametrize("index", range(len(MODELS)), ids=[c.name for c in MODELS])
def test_greedy_texts_are_the_argmax_of_the_full_forward_pass(index: int) -> None:
    state = generate(index, "greedy")
    module = MODELS[index].make()
    readout = jax.jit(module.apply)(
        {"params": random_params(module)},
        jnp.asarray(state.ids_BL),
        masks.single_document(LENGTH),
    )
    likeliest_BL = np.asarray(decoder.logits(readout).argmax(-1))
    assert state.ids_BL.shape == (4, LENGTH)
    for row, prompt in enumerate(RAGGED):
        stop = len(prompt) + 8
        assert state.length_B[row] == stop
        np.testing.assert_array_equal(state.ids_BL[row, : len(prompt)], prompt)
        np.testing.assert_array_equal(
            state.ids_BL[row, len(prompt) : stop],
            likeliest_BL[row, len(prompt) - 1 : stop - 1],
        )
        assert (state.ids_BL[row, stop:] == 0).all()


@pytest.mark.parametrize("chunk", [1])
def test_the_chunk_size_of_prefill_does_not_matter(chunk: int) -> None:
    expected, got = generate(2, "categorical"), generate(2, "categorical", chunk=chunk)
    np.testing.assert_array_equal(expected.ids_BL, got.ids_BL)


@pytest.mark.parametrize(("burst", "cache_length"), [(3, 256), (2, 10)])
def test_streamed_bursts_equal_one_program(burst: int, cache_length: int) -> None:
    expected = generate(1, "categorical")
    module = MODERN.make()
    bursts = text_model.stream_tokens(
        decode_fns(module),
        random_params(module),
        RAGGED,
        jax.random.key(5),
        choose=CHOOSE["categorical"],
        new_tokens=8,
        burst=burst,
        cache_length=cache_length,
    )
    rows = [sum(parts, []) for parts in zip(*bursts, strict=True)]
    for row, prompt in enumerate(RAGGED):
        end = len(prompt) + 8
        assert rows[row] == expected.ids_BL[row, len(prompt) : end].tolist()


def test_a_stop_token_ends_its_row_and_changes_no_other() -> None:
    free = generate(1, "categorical")
    stop = int(free.ids_BL[0, len(RAGGED[0]) + 2])
    halted = generate(1, "categorical", stop=(stop, VOCAB_SIZE))
    for row, prompt in enumerate(RAGGED):
        text = free.ids_BL[row, len(prompt) : len(prompt) + 8].tolist()
        kept = text[: text.index(stop) + 1] if stop in text else text
        assert halted.length_B[row] == len(prompt) + len(kept)
        assert halted.ids_BL[row, len(prompt) : halted.length_B[row]].tolist() == kept
        assert (halted.ids_BL[row, halted.length_B[row] :] == 0).all()
        assert halted.done_B[row] == (stop in text)
    assert halted.done_B[0] and not halted.done_B.all() and halted.new_tokens == 8


def test_generation_ends_when_all_rows_have_stopped() -> None:
    state = generate(1, "greedy", stop=tuple(range(VOCAB_SIZE)))
    assert state.done_B.all() and state.new_tokens == 1


def test_decoding_beyond_the_room_is_refused_or_ends_its_row() -> None:
    """The key-value cache would begin anew in silence."""
    module, choose = MODERN.make(), CHOOSE["greedy"]
    fns, weights = decode_fns(module), random_params(module)
    prompts = decoding.pad_prompts(RAGGED)
    state = decoding.prefill(fns, weights, *prompts, jax.random.key(5), new_tokens=3)
    with pytest.raises(ValueError, match="expected room for 12 tokens .* got 11"):
        decoding.decode(fns, weights, state, choose=choose, tokens=4)
    run = partial(decoding.decode, fns, choose=choose)
    beyond = jax.device_get(jax.jit(run)(weights, state, tokens=6))
    expected = generate(1, "greedy")
    for row, prompt in enumerate(RAGGED):
        end = min(len(prompt) + 6, 11)
        assert beyond.length_B[row] == end and not beyond.done_B[row]
        np.testing.assert_array_equal(
            beyond.ids_BL[row, :end], expected.ids_BL[row, :end]
        )


@pytest.mark.parametrize("shape", [{"tensor": 2, "data": 4}, {"fsdp": 2, "data": 4}])
def test_a_sharded_cache_equals_a_single_one(shape: dict[str, int]) -> None:
    module = MODERN.make()
    params = random_params(module)
    ids_BL, length_B = decoding.pad_prompts(RAGGED * 2)
    run = partial(
        decoding.generate,
        decode_fns(module),
        choose=logit_filters.greedy,
        new_tokens=8,
    )
    mesh = axes.make_mesh(**shape)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.shardings(mesh, params))
        prompt = {"ids_BL": ids_BL, "length_B": length_B}
        prompt = jax.device_put(prompt, axes.batch_shardings(mesh, prompt))
        state = jax.jit(run)(params, *prompt.values(), jax.random.key(0))
    expected = generate(1, "greedy", chunk=8)
    ids_BL, logits_BV = jax.device_get((state.ids_BL, state.logits_BV))
    np.testing.assert_array_equal(ids_BL[:4], expected.ids_BL)
    np.testing.assert_array_equal(ids_BL[4:], expected.ids_BL)
    close(expected.logits_BV, logits_BV[4:], 1e-4)
    here = state.cache[0].k_BGMK.addressable_shards[0].data
    assert here.size * 8 == state.cache[0].k_BGMK.size, here.shape


def test_an_empty_cache_is_sharded_over_heads() -> None:
    with jax.set_mesh(axes.make_mesh(data=4, tensor=2)):
        cache = jax.jit(lambda: MODERN.make().empty_cache(4, 8, 8, jnp.float32))()[0]
    for cached_BGMK in (cache.k_BGMK, cache.v_BGMK):
        rows, heads, slots, features = cached_BGMK.shape
        here = cached_BGMK.addressable_shards[0].data.shape
        assert here == (rows // 4, heads // 2, slots, features), here


def test_bfloat16_decoding_has_a_bfloat16_cache_and_float32_logits() -> None:
    module = MODERN.make()
    run = partial(
        decoding.generate,
        decode_fns(module, jnp.bfloat16),
        choose=logit_filters.greedy,
        new_tokens=2,
    )
    state = jax.eval_shape(
        run, random_params(module), *decoding.pad_prompts(RAGGED), jax.random.key(0)
    )
    assert state.cache[0].k_BGMK.dtype == jnp.bfloat16
    assert state.logits_BV.dtype == jnp.float32


def test_one_row_is_decoded_in_float32_on_a_cpu() -> None:
    """Its logits equal the full forward pass of the rounded weights; a batch of several
    rows stays bfloat16."""
    module = MODERN.make()
    narrow = decode_fns(module, jnp.bfloat16)
    start = partial(decoding.prefill, narrow, new_tokens=7, chunk=1)
    weights = jax.jit(narrow.cast_weights)(random_params(module))

    def prefill(prompts: list) -> Any:
        state = start(weights, *decoding.pad_prompts(prompts), jax.random.key(0))
        return decoding.float32_on_cpu(weights, state)

    assert (
        jax.eval_shape(partial(prefill, RAGGED))[1].cache[0].k_BGMK.dtype == "bfloat16"
    )
    wide, state = jax.jit(partial(prefill, [[7]]))()
    assert "bfloat16" not in [leaf.dtype for leaf in jax.tree.leaves((wide, state))]
    advance = partial(decoding.decode, narrow, choose=logit_filters.greedy, tokens=7)
    state = jax.jit(advance)(wide, state)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights)
    readout = module.apply({"params": rounded}, state.ids_BL, masks.single_document(8))
    logits_V = decoder.logits(readout)[0, -1]
    # Only the first token's keys and values were rounded to bfloat16.
    close(logits_V, state.logits_BV[0], 1e-2)


def test_weights_that_keep_their_dtype_are_not_copied() -> None:
    """A model that decodes in the dtype of its parameters is in memory once."""
    module = MODERN.make()
    params = random_params(module)
    weights = decoding.cast_weights(decode_fns(module, jnp.float32), params)
    state = decoding.DecodeState(
        *[jnp.ones((1, 1))] * len(decoding.DecodeState._fields)
    )
    weights, _ = decoding.float32_on_cpu(weights, state)
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(params), strict=True)
    assert all(own is leaf for own, leaf in pairs)


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_empty_prompts_are_refused(prompts: list) -> None:
    with pytest.raises(ValueError, match="expected at least one token each, got"):
        decoding.pad_prompts(prompts)


def test_layers_with_arrays_of_their_own_decode_as_a_scanned_stack() -> None:
    """On a CPU the loop over layers ends after the prompts: equal features, and the
    program has no loop over layers."""
    module = MODERN.make(stack=stack.ScannedStack)
    fns, params = decode_fns(module), random_params(module)
    prompts = decoding.pad_prompts(RAGGED)
    state = decoding.prefill(fns, params, *prompts, jax.random.key(5), new_tokens=4)
    own, weights, split = decoding.unroll_layers_on_cpu(fns, params, state)
    advance = partial(decoding.decode, choose=logit_filters.greedy, tokens=4)
    stacked = jax.jit(partial(advance, fns))(params, state)
    unrolled = jax.jit(partial(advance, own))(weights, split)
    np.testing.assert_array_equal(stacked.ids_BL, unrolled.ids_BL)
    close(stacked.logits_BV, unrolled.logits_BV, 2e-5)
    assert own.unroll is None and "layers_1" in weights["stack"]
    bigger = decoding.grow_cache(own, split, cache_length=30)
    assert jax.tree.leaves(bigger.cache)[0].shape[2] == 30
