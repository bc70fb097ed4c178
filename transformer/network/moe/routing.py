"""Which experts a token goes to, and where it stands among their slots.

A dispatch is a value: `capacity(factor)` gives each expert a fixed number of slots in
each row and drops what does not fit, `dropless(block)` gives the tokens of each expert
as many blocks of slots as they need. Both only decide where tokens stand; moving them
there and back (`gathered`, `returned`) and computing with them is the same code.

A token's place among an expert's slots depends on the tokens before it only, whatever
its rank among a token's choices: a later token never takes an earlier one's slot, so a
causal model stays causal. Padding at a row's end takes no slot from what precedes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer.axes import constrain


class Choice(NamedTuple):
    """One of the k experts of each token: expert_BL int32, and gate_BL float32, how
    much its result counts."""

    expert_BL: jax.Array
    gate_BL: jax.Array


Gates = Callable[[Sequence[jax.Array]], list[jax.Array]]


def plain(chosen: Sequence[jax.Array]) -> list[jax.Array]:
    """Gates that are the probabilities of the chosen experts (Switch, Fedus et al.
    2021, arXiv 2101.03961, equation 2): what is left to sum to one is the others'."""
    return list(chosen)


def renormalised(chosen: Sequence[jax.Array]) -> list[jax.Array]:
    """Gates that sum to one: a softmax over the chosen experts (Mixtral, Jiang et al.
    2024, arXiv 2401.04088, section 2.1). With k = 1 no gradient reaches the router."""
    total = sum(chosen[1:], start=chosen[0])
    return [one / total for one in chosen]


def top(probability_BLE: jax.Array, k: int, *, gates: Gates = plain) -> list[Choice]:
    """The k likeliest experts of each token, the likeliest first."""
    number = probability_BLE.shape[-1]
    left_BLE, experts, values = probability_BLE, [], []
    # Not `jax.lax.top_k`, for which a mesh gathers all probabilities.
    for _ in range(k):
        expert_BL = jnp.argmax(left_BLE, axis=-1).astype(jnp.int32)
        best_BLE = jax.nn.one_hot(expert_BL, number)
        experts.append(expert_BL)
        values.append(jnp.sum(probability_BLE * best_BLE, axis=-1))
        left_BLE = jnp.where(best_BLE > 0, -1.0, left_BLE)
    return [Choice(*pair) for pair in zip(experts, gates(values), strict=True)]


def counts(choices: Sequence[Choice], experts: int) -> jax.Array:
    """float32 (B, L, E): 1 where the token chose the expert."""
    chosen = [jax.nn.one_hot(c.expert_BL, experts) for c in choices]
    return sum(chosen[1:], start=chosen[0])


class Slots(NamedTuple):
    """Where the tokens stand: B groups (rows, or one group of all rows, end to end) of
    E times C slots.

    token_BEC: int32, the token of the group in each slot, L where it is empty.
    places: for each choice the slot e C + c of each token as int32 (B, L) of groups,
    E C where there was none left. weights: from the experts' weights, leading E, to
    those of each E of the slots.
    """

    token_BEC: jax.Array
    places: list[jax.Array]
    weights: Callable[[jax.Array], jax.Array]


# From the choices and the number of experts.
Dispatch = Callable[[Sequence[Choice], int], Slots]


def capacity(factor: float) -> Dispatch:
    """ceil(factor k L / E) slots of each expert in each row (GShard, Lepikhin et al.
    2020, arXiv 2006.16668, algorithm 1, a row a group). At most L.

    The tokens after those that fill an expert are not computed by it. Memory and
    traffic are fixed, and slots lie where their experts are (mesh axis `expert`). Rows
    do not touch each other; documents in one row share its slots. What is decoded
    token by token is never dropped, so it equals whole rows only while these are not.
    """
    if factor <= 0:
        raise ValueError(f"capacity: expected a factor above 0, got {factor}")

    def slots(choices: Sequence[Choice], experts: int) -> Slots:
        length = choices[0].expert_BL.shape[1]
        size = min(length, math.ceil(factor * len(choices) * length / experts))
        ranks, _ = _ranked(choices, experts)
        places = [
            jnp.where(rank_BL < size, c.expert_BL * size + rank_BL, experts * size)
            for c, rank_BL in zip(choices, ranks, strict=True)
        ]
        return Slots(_tokens(places, experts, size), places, lambda w: w)

    return slots


def dropless(block: int = 64) -> Dispatch:
    """Blocks of `block` slots, each of one expert, as many as its tokens of all rows
    need: nothing is dropped (MegaBlocks, Gale et al. 2022, arXiv 2211.15841).

    At most E (block - 1) slots stay empty. On a mesh the tokens and the experts'
    weights are gathered where they meet: right anywhere, fast where they are few.
    """
    if block < 1:
        raise ValueError(f"dropless: expected a block of at least 1, got {block}")

    def slots(choices: Sequence[Choice], experts: int) -> Slots:
        flat = [Choice(*(a.reshape(1, -1) for a in c)) for c in choices]
        tokens = flat[0].expert_BL.shape[1]
        chosen, size = len(choices) * tokens, min(block, tokens)
        # Blocks that tokens in the worst order would need; none is without a token.
        blocks = min(chosen, (chosen + experts * (size - 1)) // size)
        ranks, count_BE = _ranked(flat, experts)
        last_E = jnp.cumsum(-(-count_BE[0] // size))
        first_E = jnp.concatenate([jnp.zeros(1, jnp.int32), last_E[:-1]])
        places = [
            first_E[c.expert_BL] * size + rank_BL
            for c, rank_BL in zip(flat, ranks, strict=True)
        ]
        expert_E = jnp.searchsorted(last_E, jnp.arange(blocks), side="right")
        expert_E = jnp.minimum(expert_E, experts - 1)

        def weights(w: jax.Array) -> jax.Array:
            # Wide, so that the blocks' gradients add up in float32.
            return w.astype(jnp.float32)[expert_E].astype(w.dtype)

        return Slots(_tokens(places, blocks, size), places, weights)

    return slots


def _ranked(
    choices: Sequence[Choice], experts: int
) -> tuple[list[jax.Array], jax.Array]:
    """For each choice, how many tokens before it in its group chose the same expert;
    and how many chose each, (B, E)."""
    chosen_BLE = counts(choices, experts).astype(jnp.int32)
    before_BLE = jnp.cumsum(chosen_BLE, axis=1) - chosen_BLE
    ranks = [
        jnp.take_along_axis(before_BLE, c.expert_BL[..., None], axis=2)[..., 0]
        for c in choices
    ]
    return ranks, chosen_BLE.sum(1)


def _tokens(places: Sequence[jax.Array], experts: int, size: int) -> jax.Array:
    """`places` the other way round: the token in each slot."""
    length = places[0].shape[1]

    @jax.vmap
    def of_group(*places: jax.Array) -> jax.Array:
        token = jnp.full(experts * size, length, jnp.int32)
        for place in places:
            token = token.at[place].set(jnp.arange(length), mode="drop")
        return token

    return of_group(*places).reshape(-1, experts, size)


def gathered(x_BLD: jax.Array, slots: Slots) -> jax.Array:
    """(E, B, C, D) of groups: each slot's token, 0 in empty ones. E comes first, as in
    the weights: then a product with them is one of the forms that CPUs have."""
    groups, experts, size = slots.token_BEC.shape
    tokens = x_BLD.reshape(groups, -1, x_BLD.shape[-1])
    found_BCD = _taken(tokens, slots.token_BEC.reshape(groups, -1))
    # Each device finds its own rows' tokens; then one all-to-all takes them to E.
    found_BCD = constrain(found_BCD, "BCD")
    return found_BCD.reshape(groups, experts, size, -1).swapaxes(0, 1)


def returned(
    y_EBCD: jax.Array, slots: Slots, choices: Sequence[Choice], *, like: jax.Array
) -> jax.Array:
    """The gated sum of what its experts made of each token, in the shape and dtype of
    `like`, (B, L, D); a choice that found no slot adds 0."""
    _, groups, _, width = y_EBCD.shape
    made_BCD = y_EBCD.swapaxes(0, 1).reshape(groups, -1, width)
    made_BCD = constrain(made_BCD, "BCD")
    total = 0.0
    for place_BL, choice in zip(slots.places, choices, strict=True):
        y_BLD = _taken(made_BCD, place_BL).reshape(like.shape)
        total = total + choice.gate_BL[..., None] * y_BLD
    return jnp.asarray(total, like.dtype)


def _taken(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Features at `index` along the second axis; 0 behind its end."""
    return jnp.take_along_axis(rows, index[..., None], 1, mode="fill", fill_value=0)
