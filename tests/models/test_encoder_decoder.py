"""The encoder-decoder: the target attends to the whole source; cached = full."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import DEPTH, ROWS, close, random_params
from kinds import VOCAB_SIZE, init_seq2seq, sentences, seq2seq

from transformer import axes
from transformer.generation import decoding, logit_filters
from transformer.models import decoder, encoder_decoder
from transformer.network import block, masks, stack

MODULE = seq2seq()
PARAMS = random_params(MODULE, init_params=init_seq2seq)
TARGET_LENGTH = 9


def tokens_of(segment_BL: Any) -> masks.TokenPositions:
    return masks.packed(jnp.asarray(segment_BL), jnp.arange(segment_BL.shape[1])[None])


def features(params: Any, batch: dict[str, Any], module: Any = MODULE) -> jax.Array:
    """Of the target rows, (B, L, D)."""
    source = batch["source_BL"], tokens_of(batch["source_segment_BL"])
    target = batch["ids_BL"], tokens_of(batch["target_segment_BL"])
    return module.apply({"params": params}, *source, *target)[0]


def test_padding_of_the_source_does_not_matter() -> None:
    batch = sentences(0)
    expected_BLD = jax.jit(features)(PARAMS, batch)
    longer = {**batch}
    for name, filler in (("source_BL", 5), ("source_segment_BL", 0)):
        longer[name] = np.pad(batch[name], ((0, 0), (0, 4)), constant_values=filler)
    padding_BL = batch["source_segment_BL"] == 0
    longer["source_BL"][:, :12][padding_BL] = 7
    close(expected_BLD, jax.jit(features)(PARAMS, longer), 2e-5)


def test_the_target_depends_on_the_whole_source_and_on_no_later_target() -> None:
    batch = {name: jnp.asarray(a[:1]) for name, a in sentences(1).items()}
    batch["target_segment_BL"] = jnp.ones_like(batch["target_segment_BL"])
    run = jax.jit(features)
    base_LD = run(PARAMS, batch)[0]
    for place in range(12):
        other = batch["source_BL"].at[0, place].add(1) % VOCAB_SIZE
        changed_LD = run(PARAMS, {**batch, "source_BL": other})[0]
        differs = np.abs(changed_LD - base_LD).max(-1) > 1e-6
        real = bool(batch["source_segment_BL"][0, place])
        assert differs.all() == differs.any() == real
    for place in range(TARGET_LENGTH):
        other = batch["ids_BL"].at[0, place].add(1) % VOCAB_SIZE
        changed_LD = run(PARAMS, {**batch, "ids_BL": other})[0]
        differs = np.abs(changed_LD - base_LD).max(-1) > 1e-6
        assert differs.tolist() == [False] * place + [True] * (TARGET_LENGTH - place)


@pytest.mark.parametrize("kind", [stack.UnrolledStack, stack.ScannedStack])
def test_cached_decoding_equals_the_full_forward(kind: Any) -> None:
    """Ragged sources and ragged rows, three tokens at once and then one by one."""
    batch = sentences(2)
    module = seq2seq(stack=kind)
    params = random_params(module, init_params=init_seq2seq)
    whole_BLD = jax.jit(partial(features, module=module))(params, batch)

    @jax.jit
    def begin(params: Any) -> Any:
        source = jnp.asarray(batch["source_BL"]), tokens_of(batch["source_segment_BL"])
        memory = module.apply({"params": params}, *source, method="cache_memory")
        own = module.empty_cache(ROWS, TARGET_LENGTH, 3, jnp.float32)
        return block.join_caches(own, memory)

    @jax.jit
    def step(params: Any, cache: Any, *arrays: Any) -> Any:
        ids_BL, position_BL, segment_BL = arrays
        tokens = masks.TokenPositions(position_BL, position_BL, segment_BL)
        inputs = ids_BL, cache, tokens
        (x_BLD, _), cache = module.apply({"params": params}, *inputs, method="decode")
        return x_BLD, cache

    cache, steps = begin(params), []
    index_BL = np.broadcast_to(np.arange(TARGET_LENGTH)[None], batch["ids_BL"].shape)
    arrays = batch["ids_BL"], index_BL, batch["target_segment_BL"]
    for start, stop in ((0, 3), *((n, n + 1) for n in range(3, TARGET_LENGTH))):
        x_BLD, cache = step(params, cache, *(a[:, start:stop] for a in arrays))
        steps.append(x_BLD)
    real = batch["target_segment_BL"] > 0
    close(np.asarray(whole_BLD)[real], np.concatenate(steps, axis=1)[real], 2e-5)


def test_greedy_cached_decoding_is_the_argmax_of_the_full_model() -> None:
    batch = sentences(3)
    source_BL = jnp.asarray(batch["source_BL"][:2])
    segment_BL = jnp.asarray(batch["source_segment_BL"][:2])
    start_B1 = jnp.asarray([[1], [2]])

    @jax.jit
    def generate(params: Any) -> jax.Array:
        variables, source = {"params": params}, (source_BL, tokens_of(segment_BL))
        memory = MODULE.apply(variables, *source, method="cache_memory")

        def empty_cache(*sizes: int) -> Any:
            return block.join_caches(MODULE.empty_cache(*sizes, jnp.float32), memory)

        decode_fns = decoding.DecodeFns(
            lambda _, *rest: MODULE.apply(variables, *rest, method="decode"),
            empty_cache,
        )
        return decoding.generate(
            decode_fns,
            params,
            start_B1,
            jnp.asarray([1, 1]),
            jax.random.key(0),
            choose=logit_filters.greedy,
            new_tokens=TARGET_LENGTH,
        ).ids_BL

    ids_BL = generate(PARAMS)
    full = {
        "source_BL": source_BL,
        "source_segment_BL": segment_BL,
        "ids_BL": ids_BL[:, :-1],
        "target_segment_BL": jnp.ones_like(ids_BL[:, :-1]),
    }
    x_BLD = jax.jit(features)(PARAMS, full)
    w_VD = PARAMS["decoder"]["embedding_VD"]
    argmax_BL = decoder.logits((x_BLD, w_VD)).argmax(-1)
    np.testing.assert_array_equal(argmax_BL, ids_BL[:, 1:])
    assert len(np.unique(ids_BL)) > 3


def test_cross_attention_weights_are_sown() -> None:
    batch = sentences(4)
    source = batch["source_BL"], tokens_of(batch["source_segment_BL"])
    target = batch["ids_BL"], tokens_of(batch["target_segment_BL"])
    apply = jax.jit(partial(MODULE.apply, mutable="intermediates"))
    _, collections = apply({"params": PARAMS}, *source, *target)
    layers = axes.sown_arrays(
        collections["intermediates"], "weights_BHLM", within="cross_attention"
    )
    assert len(layers) == DEPTH
    for weights_BHLM in layers:
        assert weights_BHLM.shape[-2:] == (TARGET_LENGTH, 12)
        np.testing.assert_allclose(weights_BHLM.sum(-1), 1.0, atol=1e-5)
        padding_BM = batch["source_segment_BL"] == 0
        assert not np.asarray(weights_BHLM).swapaxes(1, 3)[padding_BM].any()


def test_a_decoder_block_without_a_memory_is_refused() -> None:
    ids_BL = jnp.zeros((1, 3), jnp.int32)

    def alone(module: Any) -> Any:
        return module.decoder(ids_BL, masks.single_document(3))

    with pytest.raises(ValueError, match="expected conditioning.memory, got None"):
        MODULE.apply({"params": PARAMS}, method=alone)


def test_texts_of_a_batch_of_images_do_not_depend_on_padding() -> None:
    """A row is a document, at positions from 0, given the image of the row."""
    rng = np.random.default_rng(0)
    like = jax.ShapeDtypeStruct((1, 4, 6), np.float32)
    net = encoder_decoder.image_to_text(
        grid=(2, 2), patch_features=6, depth=1, decoder_depth=1, width=32, vocab_size=20
    )
    init = partial(encoder_decoder.init_image_to_text, like=like)
    params = random_params(net, init_params=init)
    batch = {
        "raw_BLP": rng.normal(size=(2, 4, 6)).astype(np.float32),
        "ids_BL": rng.integers(1, 20, (2, 5)),
        "segment_BL": (np.arange(5) < np.array([[5], [3]])).astype(np.int32),
    }
    run = jax.jit(partial(encoder_decoder.apply_image_to_text, net))
    x_BLD, w_VD = run(params, batch)
    assert w_VD.shape == (20, 32)
    source, target = masks.single_document(4), masks.single_document(3)
    inputs = batch["raw_BLP"][1:], source, batch["ids_BL"][1:, :3], target
    readout = jax.jit(net.apply)({"params": params}, *inputs)
    close(readout[0][0], x_BLD[1, :3], 2e-5)
