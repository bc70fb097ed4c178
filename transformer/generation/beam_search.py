"""Beam search: the most likely texts, where greedy decoding takes the most likely next
token.

Each of B prompts has I hypotheses, which are adjacent rows of the model's cache. The
token `end` finishes a hypothesis; its score is its log-probability over a power of its
length (Wu et al. 2016, arXiv 1609.08144, equation 14, without coverage).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.axes import dimensions, leaf_name
from transformer.checks import at_least
from transformer.generation import decoding
from transformer.network import block
from transformer.network.masks import TokenPositions
from transformer.network.precision import unembed


class Hypotheses(NamedTuple):
    """Finished texts, the best first.

    ids_BIL: int32, the continuation, `end` included, 0 beyond. length_BI: int32, its
    tokens; 0 where fewer than I are finished. log_p_BI: float32, nats. score_BI:
    float32, log_p over the length penalty.
    """

    ids_BIL: jax.Array
    length_BI: jax.Array
    log_p_BI: jax.Array
    score_BI: jax.Array


class SearchState(NamedTuple):
    """The unfinished hypotheses and the finished ones.

    ids_BIL, log_p_BI: of the unfinished; -inf where there are fewer than I.
    logits_BIV: for their next tokens. done_B: no unfinished hypothesis can become the
    best. length: int32 scalar, tokens of the unfinished hypotheses.
    """

    ids_BIL: jax.Array
    log_p_BI: jax.Array
    logits_BIV: jax.Array
    cache: Any
    finished: Hypotheses
    done_B: jax.Array
    length: jax.Array


def length_normalizer(length: Any, power: float) -> jax.Array:
    """((5 + length) / 6) ** power: 1 for a single token. Power 0 leaves
    log-probabilities unchanged; larger powers favor longer texts."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** power


def gather_rows(cache: Any, row_B: jax.Array) -> Any:
    """The rows `row_B` of a cache, along the dimension B in each array's name."""

    def gather(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.take(leaf, row_B, axis=_batch_dimension(path, leaf))

    return jax.tree_util.tree_map_with_path(gather, cache)


def _batch_dimension(path: Any, leaf: jax.Array) -> int:
    """The index of B, after the layers of a scanned stack."""
    letters = dimensions(leaf_name(path))
    return leaf.ndim - len(letters) + letters.index("B")


def with_cross_cache(
    fns: decoding.DecodeFns, cross_cache: Any, *, beam_size: int = 1
) -> decoding.DecodeFns:
    """`fns` of a decoder with cross-attention, closed over the cached memory of each
    prompt. All hypotheses of a prompt share it, so it is not part of the cache that is
    reordered with them."""
    path, leaf = jax.tree_util.tree_leaves_with_path(cross_cache)[0]
    rows = leaf.shape[_batch_dimension(path, leaf)]
    memory = gather_rows(cross_cache, jnp.repeat(jnp.arange(rows), beam_size))

    def decode(weights: Any, ids_BL: Any, own: Any, tokens: TokenPositions) -> Any:
        cache = block.join_caches(own, memory)
        readout, cache = fns.decode(weights, ids_BL, cache, tokens)
        return readout, block.self_caches(cache)

    return fns._replace(decode=decode)


def beam_search(
    fns: decoding.DecodeFns,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    beam_size: int,
    new_tokens: int,
    end: int,
    length_penalty: float = 0.6,
) -> Hypotheses:
    """The best of `beam_size` hypotheses for each prompt, one compilable program.

    ids_BL, length_B: prompts as from `decoding.pad_prompts`. The cache of `fns` has
    `beam_size` adjacent rows for each prompt. new_tokens: the limit, `end` included;
    the last token can only be `end`. length_penalty: the power in `length_normalizer`.

    A prompt is done when no unfinished hypothesis can become its best: a longer text is
    less likely, and its length is bounded. So the first hypothesis is that of the full
    search; the others are the best that were finished by then. ValueError for beam_size
    or new_tokens below 1, and a negative length_penalty.
    """
    at_least("beam_size", beam_size, 1)
    at_least("new_tokens", new_tokens, 1)
    at_least("length_penalty", length_penalty, 0)
    weights = fns.cast_weights(params)
    state = _initial_state(
        fns, weights, ids_BL, length_B, beam_size=beam_size, new_tokens=new_tokens
    )
    prompt_BI = jnp.repeat(length_B[:, None], beam_size, axis=1)

    def has_unfinished(state: SearchState) -> jax.Array:
        return (state.length < new_tokens) & ~state.done_B.all()

    def step(state: SearchState) -> SearchState:
        last = state.length == new_tokens - 1
        candidates = _candidates(state, end=end, last=last)
        finished = _merge_finished(state, candidates, length_penalty=length_penalty)
        state = _extend(fns, weights, state, candidates, prompt_BI + state.length)
        bound_B = state.log_p_BI[:, 0] / length_normalizer(new_tokens, length_penalty)
        done_B = state.done_B | (finished.score_BI[:, 0] >= bound_B)
        return state._replace(finished=finished, done_B=done_B)

    return jax.lax.while_loop(has_unfinished, step, state).finished


def _initial_state(
    fns: decoding.DecodeFns,
    weights: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    beam_size: int,
    new_tokens: int,
) -> SearchState:
    rows = ids_BL.shape[0]
    prompts = decoding.prefill(
        fns,
        weights,
        jnp.repeat(ids_BL, beam_size, axis=0),
        jnp.repeat(length_B, beam_size, axis=0),
        jax.random.key(0),
        new_tokens=new_tokens,
    )
    zeros_BIL = jnp.zeros((rows, beam_size, new_tokens), jnp.int32)
    none_BI = jnp.full((rows, beam_size), -jnp.inf)
    return SearchState(
        ids_BIL=zeros_BIL,
        # All I rows hold the same prompt at first: only one of them is a hypothesis.
        log_p_BI=none_BI.at[:, 0].set(0.0),
        logits_BIV=prompts.logits_BV.reshape(rows, beam_size, -1),
        cache=prompts.cache,
        finished=Hypotheses(zeros_BIL, zeros_BIL[..., 0], none_BI, none_BI),
        done_B=jnp.zeros((rows,), bool),
        length=jnp.int32(0),
    )


class Candidates(NamedTuple):
    """The 2 I most likely extensions by one token (dimension C), the most likely first.

    token_BC: the new token. parent_BC: the hypothesis that it extends. ends_BC: the
    token is `end`. first_C: among the first I.
    """

    log_p_BC: jax.Array
    token_BC: jax.Array
    parent_BC: jax.Array
    ends_BC: jax.Array
    first_C: jax.Array


def _candidates(state: SearchState, *, end: int, last: jax.Array) -> Candidates:
    """Each hypothesis has one extension by `end`, so at least I of 2 I do not end."""
    rows, beam_size, vocab_size = state.logits_BIV.shape
    log_p_BIV = state.log_p_BI[..., None] + jax.nn.log_softmax(state.logits_BIV)
    not_end_V = jnp.arange(vocab_size) != end
    log_p_BIV = jnp.where(last & not_end_V[None, None], -jnp.inf, log_p_BIV)
    log_p_BC, flat_BC = jax.lax.top_k(log_p_BIV.reshape(rows, -1), 2 * beam_size)
    token_BC = flat_BC % vocab_size
    return Candidates(
        log_p_BC=log_p_BC,
        token_BC=token_BC,
        parent_BC=flat_BC // vocab_size,
        ends_BC=token_BC == end,
        first_C=jnp.arange(2 * beam_size) < beam_size,
    )


def _merge_finished(
    state: SearchState, candidates: Candidates, *, length_penalty: float
) -> Hypotheses:
    """The best I of the finished hypotheses and those that end now. A prompt that is
    done keeps its own.

    Only an end among the first I candidates counts: with one beam this is greedy
    decoding."""
    beam_size = state.log_p_BI.shape[1]
    ended_BC = candidates.ends_BC & candidates.first_C[None] & ~state.done_B[:, None]
    log_p_BC = jnp.where(ended_BC, candidates.log_p_BC, -jnp.inf)
    real_BC = jnp.isfinite(log_p_BC)
    length = state.length + 1
    new = Hypotheses(
        jnp.where(real_BC[..., None], _candidate_ids(state, candidates), 0),
        jnp.where(real_BC, length, 0),
        log_p_BC,
        log_p_BC / length_normalizer(length, length_penalty),
    )
    both = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, axis=1), state.finished, new
    )
    score_BI, index_BI = jax.lax.top_k(both.score_BI, beam_size)
    return Hypotheses(
        jnp.take_along_axis(both.ids_BIL, index_BI[..., None], axis=1),
        jnp.take_along_axis(both.length_BI, index_BI, axis=1),
        jnp.take_along_axis(both.log_p_BI, index_BI, axis=1),
        score_BI,
    )


def _candidate_ids(state: SearchState, candidates: Candidates) -> jax.Array:
    """Token ids of the candidates, (B, 2 I, L)."""
    parent_BC1 = candidates.parent_BC[..., None]
    ids_BCL = jnp.take_along_axis(state.ids_BIL, parent_BC1, axis=1)
    here_L = jnp.arange(ids_BCL.shape[-1]) == state.length
    return jnp.where(here_L[None, None], candidates.token_BC[..., None], ids_BCL)


def _extend(
    fns: decoding.DecodeFns,
    weights: Any,
    state: SearchState,
    candidates: Candidates,
    index_BI: jax.Array,
) -> SearchState:
    """The I most likely candidates that do not end, with their cache and logits."""
    rows, beam_size = state.log_p_BI.shape
    log_p_BC = jnp.where(candidates.ends_BC, -jnp.inf, candidates.log_p_BC)
    log_p_BI, chosen_BI = jax.lax.top_k(log_p_BC, beam_size)
    token_BI = jnp.take_along_axis(candidates.token_BC, chosen_BI, axis=1)
    parent_BI = jnp.take_along_axis(candidates.parent_BC, chosen_BI, axis=1)
    ids_BCL = _candidate_ids(state, candidates)
    row_B = (jnp.arange(rows)[:, None] * beam_size + parent_BI).reshape(-1)
    index_BL = index_BI.reshape(-1, 1)
    tokens = TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))
    (x_BLD, w_VD), cache = fns.decode(
        weights, token_BI.reshape(-1, 1), gather_rows(state.cache, row_B), tokens
    )
    logits_BLV = unembed("BLD,VD->BLV", x_BLD, w_VD)
    return state._replace(
        ids_BIL=jnp.take_along_axis(ids_BCL, chosen_BI[..., None], axis=1),
        log_p_BI=log_p_BI,
        logits_BIV=logits_BLV[:, 0].reshape(rows, beam_size, -1),
        cache=cache,
        length=state.length + 1,
    )
