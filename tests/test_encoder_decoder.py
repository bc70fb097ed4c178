"""The encoder-decoder: what is written sees all that is read, and is cached rightly."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS, close, drawn
from kinds import SYMBOLS, sentences, writer, writer_initial

from transformer.generation import decoding, logit_filters
from transformer.models import decoder
from transformer.network import masks, reading, stack

MODULE = writer()
PARAMS = drawn(MODULE, initial=writer_initial)
WRITTEN = 9


def tokens_of(segment_BL: Any) -> masks.Tokens:
    return masks.packed(jnp.asarray(segment_BL), jnp.arange(segment_BL.shape[1])[None])


def features(params: Any, batch: dict[str, Any], module: Any = MODULE) -> jax.Array:
    """Of the written rows, (B, L, D)."""
    read = batch["source_BL"], tokens_of(batch["source_segment_BL"])
    written = batch["ids_BL"], tokens_of(batch["written_BL"])
    return module.apply({"params": params}, *read, *written)[0]


def test_padding_of_what_is_read_does_not_matter() -> None:
    batch = sentences(0)
    whole_BLD = jax.jit(features)(PARAMS, batch)
    longer = {**batch}
    for name, filler in (("source_BL", 5), ("source_segment_BL", 0)):
        longer[name] = np.pad(batch[name], ((0, 0), (0, 4)), constant_values=filler)
    padding_BL = batch["source_segment_BL"] == 0
    longer["source_BL"][:, :12][padding_BL] = 7
    close(whole_BLD, jax.jit(features)(PARAMS, longer), 2e-5)


def test_what_is_written_sees_all_that_is_read_and_nothing_later() -> None:
    batch = {name: jnp.asarray(a[:1]) for name, a in sentences(1).items()}
    batch["written_BL"] = jnp.ones_like(batch["written_BL"])
    changed = jax.jit(features)
    was_LD = changed(PARAMS, batch)[0]
    for place in range(12):
        other = batch["source_BL"].at[0, place].add(1) % SYMBOLS
        now_LD = changed(PARAMS, {**batch, "source_BL": other})[0]
        moved = np.abs(now_LD - was_LD).max(-1) > 1e-6
        assert moved.all() == moved.any() == bool(batch["source_segment_BL"][0, place])
    for place in range(WRITTEN):
        other = batch["ids_BL"].at[0, place].add(1) % SYMBOLS
        now_LD = changed(PARAMS, {**batch, "ids_BL": other})[0]
        moved = np.abs(now_LD - was_LD).max(-1) > 1e-6
        assert moved.tolist() == [False] * place + [True] * (WRITTEN - place)


@pytest.mark.parametrize("kind", [stack.Unrolled, stack.Scanned])
def test_cached_decoding_equals_the_full_forward(kind: Any) -> None:
    """Ragged sources and ragged rows, three tokens at once and then one by one."""
    batch = sentences(2)
    module = writer(stack=kind)
    params = drawn(module, initial=writer_initial)
    whole_BLD = jax.jit(partial(features, module=module))(params, batch)

    @jax.jit
    def stepwise(params: Any) -> jax.Array:
        apply = partial(module.apply, {"params": params})
        read = jnp.asarray(batch["source_BL"]), tokens_of(batch["source_segment_BL"])
        own = module.empty_cache(ROWS, WRITTEN, 3, jnp.float32)
        cache = reading.caches(own, apply(*read, method="remember"))
        said = []
        for start, stop in ((0, 3), *((n, n + 1) for n in range(3, WRITTEN))):
            ids_BL = batch["ids_BL"][:, start:stop]
            places_BL = jnp.broadcast_to(jnp.arange(start, stop)[None], ids_BL.shape)
            segment_BL = jnp.asarray(batch["written_BL"][:, start:stop])
            tokens = masks.Tokens(places_BL, places_BL, segment_BL)
            (x_BLD, _), cache = apply(ids_BL, cache, tokens, method="extend")
            said.append(x_BLD)
        return jnp.concatenate(said, axis=1)

    real = batch["written_BL"] > 0
    close(np.asarray(whole_BLD)[real], np.asarray(stepwise(params))[real], 2e-5)


def test_decoding_a_memory_writes_what_the_whole_model_finds_likeliest() -> None:
    batch = sentences(3)
    source_BL = jnp.asarray(batch["source_BL"][:2])
    read_BL = jnp.asarray(batch["source_segment_BL"][:2])
    start_B1 = jnp.asarray([[1], [2]])

    @jax.jit
    def written(params: Any) -> jax.Array:
        variables, read = {"params": params}, (source_BL, tokens_of(read_BL))
        remembered = MODULE.apply(variables, *read, method="remember")

        def empty_cache(*sizes: int) -> Any:
            return reading.caches(MODULE.empty_cache(*sizes, jnp.float32), remembered)

        language = decoding.Language(
            lambda _, *rest: MODULE.apply(variables, *rest, method="extend"),
            empty_cache,
        )
        return decoding.generated(
            language,
            params,
            start_B1,
            jnp.asarray([1, 1]),
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=WRITTEN,
        ).ids_BL

    ids_BL = written(PARAMS)
    whole = {
        "source_BL": source_BL,
        "source_segment_BL": read_BL,
        "ids_BL": ids_BL[:, :-1],
        "written_BL": jnp.ones_like(ids_BL[:, :-1]),
    }
    x_BLD = jax.jit(features)(PARAMS, whole)
    w_VD = PARAMS["decoder"]["embedding_VD"]
    likeliest_BL = decoder.logits((x_BLD, w_VD)).argmax(-1)
    np.testing.assert_array_equal(likeliest_BL, ids_BL[:, 1:])
    assert len(np.unique(ids_BL)) > 3


def test_the_attention_to_what_is_read_can_be_asked_for() -> None:
    batch = sentences(4)
    read = batch["source_BL"], tokens_of(batch["source_segment_BL"])
    written = batch["ids_BL"], tokens_of(batch["written_BL"])
    _, kept = MODULE.apply({"params": PARAMS}, *read, *written, mutable="intermediates")
    layers = kept["intermediates"]["decoder"]["stack"]
    for layer in ("layers_0", "layers_1"):
        (weights_BHLM,) = layers[layer]["reading"]["weights_BHLM"]
        assert weights_BHLM.shape[-2:] == (WRITTEN, 12)
        np.testing.assert_allclose(weights_BHLM.sum(-1), 1.0, atol=1e-5)
        hidden_BM = batch["source_segment_BL"] == 0
        assert not np.asarray(weights_BHLM).swapaxes(1, 3)[hidden_BM].any()


def test_a_reader_without_a_memory_is_refused() -> None:
    ids_BL = jnp.zeros((1, 3), jnp.int32)

    def alone(module: Any) -> Any:
        return module.decoder(ids_BL, masks.row(3))

    with pytest.raises(ValueError, match="expected given.memory, got none"):
        MODULE.apply({"params": PARAMS}, method=alone)
