"""Beam search: greedy with one beam, exhaustive with enough, scores equal to the full
forward pass, each prompt independent of the others."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import language_model, random_params
from kinds import init_seq2seq, sentences, seq2seq

from transformer.generation import beam_search, decoding, logit_filters
from transformer.models import decoder
from transformer.network import masks, positions, stack

END, OFTEN, NEW = 3, 19, 10
ROTARY = {"rotate": positions.rotary()}
CASE = language_model("small", attention=ROTARY)


def decode_fns(module: Any) -> decoding.DecodeFns:
    return decoding.decode_fns(module, jnp.float32)


def log_p(module: Any, params: Any, ids_BL: np.ndarray) -> np.ndarray:
    """(B, L - 1): of each token but the first, by the full forward pass."""
    tokens = masks.single_document(ids_BL.shape[1])

    @jax.jit
    def run(params: Any) -> jax.Array:
        readout = module.apply({"params": params}, ids_BL, tokens)
        log_p_BLV = jax.nn.log_softmax(decoder.logits(readout))[:, :-1]
        return jnp.take_along_axis(log_p_BLV, ids_BL[:, 1:, None], axis=-1)[..., 0]

    return np.asarray(run(params))


def test_length_normalizer_is_the_formula_of_the_paper() -> None:
    normalizer = jax.jit(beam_search.length_normalizer)
    np.testing.assert_allclose(normalizer(1, 0.7), 1.0)
    np.testing.assert_allclose(normalizer(13, 0.5), 3.0**0.5, rtol=1e-6)
    np.testing.assert_allclose(normalizer(13, 0.0), 1.0)


def test_one_beam_is_greedy_decoding() -> None:
    module = CASE.make()
    params = random_params(module)
    ids_BL, length_B = decoding.pad_prompts([[n] for n in range(48)])
    greedy = jax.jit(
        partial(
            decoding.generate,
            decode_fns(module),
            choose=logit_filters.greedy,
            new_tokens=NEW,
            stop=(OFTEN,),
        )
    )(params, ids_BL, length_B, jax.random.key(0))
    found = jax.jit(
        partial(
            beam_search.beam_search,
            decode_fns(module),
            beam_size=1,
            new_tokens=NEW,
            end=OFTEN,
            length_penalty=0.0,
        )
    )(params, ids_BL, length_B)
    greedy, found = jax.device_get((greedy, found))
    ended_B = (greedy.ids_BL[:, 1:] == OFTEN).any(1)
    assert 10 < ended_B.sum() < 40 and len(set(greedy.length_B.tolist())) > 4
    expected_BL = np.array(greedy.ids_BL[:, 1:])
    expected_BL[~ended_B, -1] = OFTEN  # cut at the limit of new tokens
    np.testing.assert_array_equal(expected_BL, found.ids_BIL[:, 0])
    length_B = np.where(ended_B, greedy.length_B - 1, NEW)
    np.testing.assert_array_equal(length_B, found.length_BI[:, 0])


@pytest.fixture(scope="module")
def four() -> Any:
    """A model of four tokens, and the log-probability of every text of at most four."""
    module = CASE.make().clone(vocab_size=4)
    params = random_params(module, seed=2)
    texts = [
        (*start, END)
        for length in range(4)
        for start in itertools.product(range(3), repeat=length)
    ]
    ids_BL = np.array([(0, *t, *[0] * (4 - len(t))) for t in texts])
    each = log_p(module, params, ids_BL)
    return module, params, {t: each[n, : len(t)].sum() for n, t in enumerate(texts)}


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_are_an_exhaustive_search(four: Any, penalty: float) -> None:
    module, params, likelihood = four
    search = partial(
        beam_search.beam_search,
        decode_fns(module),
        new_tokens=4,
        end=END,
        length_penalty=penalty,
    )
    prompt = decoding.pad_prompts([[0]])
    found = jax.device_get(jax.jit(partial(search, beam_size=36))(params, *prompt))
    score = {
        t: p / beam_search.length_normalizer(len(t), penalty)
        for t, p in likelihood.items()
    }
    best = max(score, key=lambda text: score[text])
    texts = [
        tuple(ids[:length].tolist())
        for ids, length in zip(found.ids_BIL[0], found.length_BI[0], strict=True)
        if length
    ]
    assert texts[0] == best and len(texts) == len(set(texts))
    for place, text in enumerate(texts):
        np.testing.assert_allclose(found.log_p_BI[0, place], likelihood[text], 1e-4)
        np.testing.assert_allclose(found.score_BI[0, place], score[text], 1e-4)
    assert (np.diff(found.score_BI[0, : len(texts)]) <= 0).all()
    assert np.isneginf(found.score_BI[0, len(texts) :]).all()
    assert not found.ids_BIL[0, len(texts) :].any()


def test_the_best_text_depends_on_the_length_penalty(four: Any) -> None:
    """So the exhaustive search tests the penalty."""
    likelihood = four[2]

    def best(penalty: float) -> tuple[int, ...]:
        penalties = {
            t: beam_search.length_normalizer(len(t), penalty) for t in likelihood
        }
        return max(likelihood, key=lambda t: likelihood[t] / penalties[t])

    assert [len(best(penalty)) for penalty in (0.0, 0.6, 2.0)] == [2, 3, 4]


def hypotheses(
    params: Any, batch: dict[str, Any], *, module: Any, new_tokens: int = NEW
) -> beam_search.Hypotheses:
    """Four for each source."""
    rows = batch["source_segment_BL"].shape[0]
    position_BL = jnp.arange(batch["source_segment_BL"].shape[1])[None]
    source = batch["source_BL"], masks.packed(batch["source_segment_BL"], position_BL)
    memory = module.apply({"params": params}, *source, method="cache_memory")
    return beam_search.beam_search(
        beam_search.with_cross_cache(decode_fns(module), memory, beam_size=4),
        params,
        jnp.full((rows, 1), END),
        jnp.ones((rows,), jnp.int32),
        beam_size=4,
        new_tokens=new_tokens,
        end=END,
    )


@pytest.fixture(scope="module")
def search_result() -> Any:
    module = seq2seq()
    params = random_params(module, init_params=init_seq2seq)
    batch = sentences(5)
    search = jax.jit(partial(hypotheses, module=module))
    return params, batch, search, jax.device_get(search(params, batch))


def test_scores_equal_the_full_forward_pass(search_result: Any) -> None:
    params, batch, _, found = search_result
    rows, many = found.length_BI.shape
    assert (found.length_BI[:, 0] > 0).all() and len(set(found.length_BI.flat)) > 3
    ids_BL = found.ids_BIL.reshape(rows * many, -1)
    before_BL = np.concatenate([np.full_like(ids_BL[:, :1], END), ids_BL[:, :-1]], 1)
    repeated = {
        n: np.repeat(batch[n], many, 0) for n in ("source_BL", "source_segment_BL")
    }
    segment_BL = repeated["source_segment_BL"]
    position_BL = np.arange(segment_BL.shape[1])[None]
    readout = seq2seq().apply(
        {"params": params},
        repeated["source_BL"],
        masks.packed(segment_BL, position_BL),
        before_BL,
        masks.single_document(before_BL.shape[1]),
    )
    log_p_BLV = jax.nn.log_softmax(decoder.logits(readout))
    each_BL = jnp.take_along_axis(log_p_BLV, ids_BL[..., None], axis=-1)[..., 0]
    length_BI = found.length_BI
    is_text_BL = np.arange(NEW)[None] < length_BI.reshape(-1, 1)
    total_BI = np.asarray((each_BL * is_text_BL).sum(-1)).reshape(rows, many)
    real = length_BI > 0
    np.testing.assert_allclose(total_BI[real], found.log_p_BI[real], rtol=1e-4)
    penalty_BI = beam_search.length_normalizer(length_BI, 0.6)
    np.testing.assert_allclose(
        found.score_BI[real], (found.log_p_BI / penalty_BI)[real], rtol=1e-5
    )
    ends = found.ids_BIL == END
    np.testing.assert_array_equal(ends.sum(-1), real)
    assert (ends.argmax(-1) == length_BI - 1)[real].all()


@pytest.mark.slow
def test_a_search_is_independent_of_the_other_rows(search_result: Any) -> None:
    params, batch, search, together = search_result
    for row in (0, 3):
        length = int((batch["source_segment_BL"][row] > 0).sum())
        names = "source_BL", "source_segment_BL"
        alone = {name: batch[name][row : row + 1, :length] for name in names}
        found = jax.device_get(search(params, alone))
        for whole, one in zip(together, found, strict=True):
            np.testing.assert_allclose(whole[row], one[0], rtol=1e-4)


def test_scanned_layers_find_the_same_hypotheses(search_result: Any) -> None:
    params, batch, _, unrolled = search_result
    stacked = {
        half: {**inner, "stack": stack.stack_layer_params(inner["stack"])}
        for half, inner in params.items()
    }
    module = seq2seq(stack=stack.ScannedStack)
    found = jax.jit(partial(hypotheses, module=module))(stacked, batch)
    np.testing.assert_array_equal(unrolled.ids_BIL, found.ids_BIL)
    np.testing.assert_allclose(unrolled.score_BI, found.score_BI, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("beam_size", 0), ("new_tokens", 0), ("length_penalty", -0.5)]
)
def test_parameters_out_of_range_are_refused(name: str, value: Any) -> None:
    prompts = jnp.ones((1, 1)), jnp.ones((1,))
    flags = {"beam_size": 2, "new_tokens": 3, "length_penalty": 0.0, name: value}
    with pytest.raises(ValueError, match=f"{name}: expected at least ., got {value}"):
        beam_search.beam_search(decode_fns(CASE.make()), {}, *prompts, end=0, **flags)
