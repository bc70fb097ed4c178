"""Beam search: the likeliest texts, where greedy choice finds the likeliest next token.

Each of B prompts has I hypotheses, which are rows of the model's cache side by side. A
hypothesis is finished by the token `end`; it is scored by its log-probability over a
power of its length (Wu et al. 2016, arXiv 1609.08144, equation 14, without coverage).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.axes import dimensions, leaf_name
from transformer.generation import decoding
from transformer.network import reading
from transformer.network.masks import Tokens
from transformer.network.precision import product


class Hypotheses(NamedTuple):
    """Finished texts, the best first.

    ids_BIL: int32, what follows the prompt, `end` included, 0 beyond. length_BI: int32,
    tokens of it; 0 where fewer than I were finished. log_p_BI: float32, nats. score_BI:
    float32, log_p over the length penalty.
    """

    ids_BIL: jax.Array
    length_BI: jax.Array
    log_p_BI: jax.Array
    score_BI: jax.Array


class Search(NamedTuple):
    """Where a search stands: hypotheses still being written, and those finished.

    ids_BIL, log_p_BI: of the former; -inf where there are fewer than I. logits_BIV: for
    their next tokens. done_B: no text that begins with them can be the best.
    """

    ids_BIL: jax.Array
    log_p_BI: jax.Array
    logits_BIV: jax.Array
    cache: Any
    finished: Hypotheses
    done_B: jax.Array
    drawn: jax.Array


def length_penalty(length: Any, power: float) -> jax.Array:
    """((5 + length) / 6) ** power: 1 for a single token; power 0 leaves
    log-probabilities as they are, larger ones favour longer texts."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** power


def taken(cache: Any, row_B: jax.Array) -> Any:
    """These rows of a cache, whose arrays' names say which of their dimensions is B."""

    def of(path: Any, leaf: jax.Array) -> jax.Array:
        return jnp.take(leaf, row_B, axis=_rows_of(path, leaf))

    return jax.tree_util.tree_map_with_path(of, cache)


def _rows_of(path: Any, leaf: jax.Array) -> int:
    """The place of B, behind the layers of a scanned stack."""
    letters = dimensions(leaf_name(path))
    return leaf.ndim - len(letters) + letters.index("B")


def remembering(
    language: decoding.Language, remembered: Any, *, beams: int = 1
) -> decoding.Language:
    """`language`, whose blocks read, with what it remembers of a memory: the same for
    all of a prompt's hypotheses, so that it is no part of the cache that moves with
    them."""
    path, leaf = jax.tree_util.tree_leaves_with_path(remembered)[0]
    rows = leaf.shape[_rows_of(path, leaf)]
    memory = taken(remembered, jnp.repeat(jnp.arange(rows), beams))

    def extend(params: Any, ids_BL: Any, own: Any, tokens: Tokens) -> Any:
        cache = reading.caches(own, memory)
        readout, cache = language.extend(params, ids_BL, cache, tokens)
        return readout, reading.own(cache)

    return language._replace(extend=extend)


def searched(
    language: decoding.Language,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    beams: int,
    new_tokens: int,
    end: int,
    penalty: float = 0.6,
) -> Hypotheses:
    """The best of `beams` hypotheses for each prompt, one compilable program.

    ids_BL, length_B: prompts as `decoding.padded` gives them; the language's cache has
    `beams` rows for each, side by side. new_tokens: at most, `end` included; the last
    of them can only be `end`. penalty: the power of `length_penalty`.

    A prompt is done when nothing begun can become its best: a longer text is less
    likely, and at most as long as there is room. So the first hypothesis is that of the
    whole search; the others are the best that were finished by then. ValueError for
    fewer than one beam or token, and a negative penalty.
    """
    _check(beams, new_tokens, penalty)
    params = language.weights(params)
    state = _started(
        language, params, ids_BL, length_B, beams=beams, new_tokens=new_tokens
    )
    prompt_BI = jnp.repeat(length_B[:, None], beams, axis=1)

    def going(state: Search) -> jax.Array:
        return (state.drawn < new_tokens) & ~state.done_B.all()

    def step(state: Search) -> Search:
        last = state.drawn == new_tokens - 1
        chosen = _chosen(state, end=end, last=last)
        finished = _finished(state, chosen, penalty=penalty)
        state = _written(language, params, state, chosen, prompt_BI + state.drawn)
        hope_B = state.log_p_BI[:, 0] / length_penalty(new_tokens, penalty)
        done_B = state.done_B | (finished.score_BI[:, 0] >= hope_B)
        return state._replace(finished=finished, done_B=done_B)

    return jax.lax.while_loop(going, step, state).finished


def _check(beams: int, new_tokens: int, penalty: float) -> None:
    for name, value, least in (
        ("beams", beams, 1),
        ("new_tokens", new_tokens, 1),
        ("penalty", penalty, 0),
    ):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def _started(
    language: decoding.Language,
    params: Any,
    ids_BL: jax.Array,
    length_B: jax.Array,
    *,
    beams: int,
    new_tokens: int,
) -> Search:
    rows = ids_BL.shape[0]
    read = decoding.started(
        language,
        params,
        jnp.repeat(ids_BL, beams, axis=0),
        jnp.repeat(length_B, beams, axis=0),
        jax.random.key(0),
        new_tokens=new_tokens,
    )
    none_BIL = jnp.zeros((rows, beams, new_tokens), jnp.int32)
    nothing_BI = jnp.full((rows, beams), -jnp.inf)
    return Search(
        ids_BIL=none_BIL,
        # At first all are the same prompt: one of them is begun with.
        log_p_BI=nothing_BI.at[:, 0].set(0.0),
        logits_BIV=read.logits_BV.reshape(rows, beams, -1),
        cache=read.cache,
        finished=Hypotheses(none_BIL, none_BIL[..., 0], nothing_BI, nothing_BI),
        done_B=jnp.zeros((rows,), bool),
        drawn=jnp.int32(0),
    )


class Chosen(NamedTuple):
    """The likeliest 2 I ways to go on (named C), the likeliest first: with which token,
    from which hypothesis; whether it ends there, and whether it is among the first I.
    """

    log_p_BC: jax.Array
    token_BC: jax.Array
    parent_BC: jax.Array
    ends_BC: jax.Array
    first_C: jax.Array


def _chosen(state: Search, *, end: int, last: jax.Array) -> Chosen:
    """Each hypothesis can end in one way, so I of the 2 I go on."""
    rows, beams, symbols = state.logits_BIV.shape
    log_p_BIV = state.log_p_BI[..., None] + jax.nn.log_softmax(state.logits_BIV)
    goes_on_V = jnp.arange(symbols) != end
    log_p_BIV = jnp.where(last & goes_on_V[None, None], -jnp.inf, log_p_BIV)
    log_p_BC, flat_BC = jax.lax.top_k(log_p_BIV.reshape(rows, -1), 2 * beams)
    token_BC = flat_BC % symbols
    return Chosen(
        log_p_BC=log_p_BC,
        token_BC=token_BC,
        parent_BC=flat_BC // symbols,
        ends_BC=token_BC == end,
        first_C=jnp.arange(2 * beams) < beams,
    )


def _finished(state: Search, chosen: Chosen, *, penalty: float) -> Hypotheses:
    """The best of those finished before and now; a prompt that is done keeps its own.

    An end must be among the first I choices: with one beam it is what greedy choice
    takes."""
    beams = state.log_p_BI.shape[1]
    ended_BC = chosen.ends_BC & chosen.first_C[None] & ~state.done_B[:, None]
    log_p_BC = jnp.where(ended_BC, chosen.log_p_BC, -jnp.inf)
    real_BC = jnp.isfinite(log_p_BC)
    length = state.drawn + 1
    now = Hypotheses(
        jnp.where(real_BC[..., None], _begun(state, chosen), 0),
        jnp.where(real_BC, length, 0),
        log_p_BC,
        log_p_BC / length_penalty(length, penalty),
    )
    both = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, axis=1), state.finished, now
    )
    score_BI, place_BI = jax.lax.top_k(both.score_BI, beams)
    return Hypotheses(
        jnp.take_along_axis(both.ids_BIL, place_BI[..., None], axis=1),
        jnp.take_along_axis(both.length_BI, place_BI, axis=1),
        jnp.take_along_axis(both.log_p_BI, place_BI, axis=1),
        score_BI,
    )


def _begun(state: Search, chosen: Chosen) -> jax.Array:
    """The texts of the choices, (B, 2 I, L)."""
    ids_BCL = jnp.take_along_axis(state.ids_BIL, chosen.parent_BC[..., None], axis=1)
    here_L = jnp.arange(ids_BCL.shape[-1]) == state.drawn
    return jnp.where(here_L[None, None], chosen.token_BC[..., None], ids_BCL)


def _written(
    language: decoding.Language,
    params: Any,
    state: Search,
    chosen: Chosen,
    index_BI: jax.Array,
) -> Search:
    """The likeliest choices that go on, one token longer."""
    rows, beams = state.log_p_BI.shape
    log_p_BC = jnp.where(chosen.ends_BC, -jnp.inf, chosen.log_p_BC)
    log_p_BI, place_BI = jax.lax.top_k(log_p_BC, beams)
    token_BI = jnp.take_along_axis(chosen.token_BC, place_BI, axis=1)
    parent_BI = jnp.take_along_axis(chosen.parent_BC, place_BI, axis=1)
    ids_BIL = jnp.take_along_axis(_begun(state, chosen), place_BI[..., None], axis=1)
    row_B = (jnp.arange(rows)[:, None] * beams + parent_BI).reshape(-1)
    index_BL = index_BI.reshape(-1, 1)
    tokens = Tokens(index_BL, index_BL, jnp.ones_like(index_BL))
    (x_BLD, w_VD), cache = language.extend(
        params, token_BI.reshape(-1, 1), taken(state.cache, row_B), tokens
    )
    logits_BLV = product("BLD,VD->BLV", x_BLD, w_VD)
    return state._replace(
        ids_BIL=ids_BIL,
        log_p_BI=log_p_BI,
        logits_BIV=logits_BLV[:, 0].reshape(rows, beams, -1),
        cache=cache,
        drawn=state.drawn + 1,
    )
