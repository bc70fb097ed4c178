"""Routing of tokens to experts, and the slots of each expert.

A dispatch is a value: `capacity_dispatch(factor)` gives each expert a fixed number of
slots per row and drops the tokens that do not fit, `dropless_dispatch(block)` gives
each expert as many blocks of slots as its tokens need, `dense_dispatch` gives each
expert all tokens. They only assign slots;
`dispatch` and `combine` move the tokens there and back.

A token's slot depends on earlier tokens only, whatever the rank of the choice: a later
token never takes the slot of an earlier one, so a causal model stays causal. Padding at
a row's end takes no slot from the tokens before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.network import masks


class Choice(NamedTuple):
    """The i-th of the k experts chosen for each token: expert_BL int32, and gate_BL
    float32, the weight of its output."""

    expert_BL: jax.Array
    gate_BL: jax.Array


Gates = Callable[[Sequence[jax.Array]], list[jax.Array]]


def raw_gates(probabilities: Sequence[jax.Array]) -> list[jax.Array]:
    """The probabilities of the chosen experts as gates (Switch, Fedus et al. 2021,
    arXiv 2101.03961, equation 2): the gates of a token need not sum to one."""
    return list(probabilities)


def softmax_gates(probabilities: Sequence[jax.Array]) -> list[jax.Array]:
    """Gates that sum to one: a softmax over the chosen experts (Mixtral, Jiang et al.
    2024, arXiv 2401.04088, section 2.1). With k = 1 the router has no gradient."""
    total = sum(probabilities[1:], start=probabilities[0])
    return [one / total for one in probabilities]


def scale_gates(gates: Gates, factor: float) -> Gates:
    """`gates` times a factor (DeepSeek-V3, whose chosen experts weigh 2.5 together)."""

    def scale(probabilities: Sequence[jax.Array]) -> list[jax.Array]:
        return [factor * one for one in gates(probabilities)]

    return scale


def top_k(
    probability_BLE: jax.Array,
    k: int,
    *,
    gates: Gates = raw_gates,
    preference_BLE: jax.Array | None = None,
) -> list[Choice]:
    """The k most probable experts of each token, the most probable first; or those of
    highest preference, whose probabilities are the gates all the same."""
    remaining_BLE = probability_BLE if preference_BLE is None else preference_BLE
    experts, values = [], []
    # On a mesh `jax.lax.top_k` would gather all probabilities.
    for _ in range(k):
        expert_BL = jnp.argmax(remaining_BLE, axis=-1).astype(jnp.int32)
        best_BLE = jax.nn.one_hot(expert_BL, probability_BLE.shape[-1])
        experts.append(expert_BL)
        values.append(jnp.sum(probability_BLE * best_BLE, axis=-1))
        remaining_BLE = jnp.where(best_BLE > 0, -jnp.inf, remaining_BLE)
    return [Choice(*pair) for pair in zip(experts, gates(values), strict=True)]


# router(module, logits_BLE) -> choices, with parameters of `module`, an
# `experts.MixtureOfExperts`, whose experts_per_token and gates it follows.
Router = Callable[[Any, jax.Array], list[Choice]]


def softmax_router(module: Any, logits_BLE: jax.Array) -> list[Choice]:
    """The experts of highest probability softmax(logits) (Shazeer et al. 2017)."""
    return top_k(
        jax.nn.softmax(logits_BLE), module.experts_per_token, gates=module.gates
    )


def _sigmoid_router(
    module: Any, logits_BLE: jax.Array, *, groups: int, top_groups: int
) -> list[Choice]:
    probability_BLE, experts = jax.nn.sigmoid(logits_BLE), module.experts
    if experts % groups or not 1 <= top_groups <= groups:
        raise ValueError(
            f"groups: expected a divisor of {experts} experts, and 1 to as many of "
            f"them, got {groups} and {top_groups}"
        )
    if module.experts_per_token > experts // groups * top_groups:
        raise ValueError(
            f"experts_per_token: expected at most {experts // groups * top_groups}, "
            f"those of {top_groups} groups, got {module.experts_per_token}"
        )
    # The prefix keeps it in float32.
    bias_choice_E = module.param("bias_choice_E", nn.initializers.zeros, (experts,))
    preference_BLE = probability_BLE + jax.lax.stop_gradient(bias_choice_E)[None, None]
    if top_groups < groups:
        preference_BLE = _keep_groups(preference_BLE, groups, top_groups)
    return top_k(
        probability_BLE,
        module.experts_per_token,
        gates=module.gates,
        preference_BLE=preference_BLE,
    )


def _keep_groups(preference_BLE: jax.Array, groups: int, top_groups: int) -> jax.Array:
    """-inf but for the experts of the `top_groups` whose two best sum highest."""
    rows, length, experts = preference_BLE.shape
    grouped_BLCE = preference_BLE.reshape(rows, length, groups, experts // groups)
    first, *second = top_k(grouped_BLCE, min(2, experts // groups))
    score_BLC = sum((one.gate_BL for one in second), start=first.gate_BL)
    chosen_BLC = expert_one_hot(top_k(score_BLC, top_groups), groups)
    kept_BLCE = jnp.where(chosen_BLC[..., None] > 0, grouped_BLCE, -jnp.inf)
    return kept_BLCE.reshape(rows, length, experts)


def sigmoid_router(*, groups: int = 1, top_groups: int = 1) -> Router:
    """The experts of highest sigmoid(logits) plus a bias of each expert, which its gate
    does not have; of the `top_groups` of `groups` equal groups of experts whose two
    best sum highest (DeepSeek-V3, arXiv 2412.19437, section 2.1.2; GLM-4.5).

    The bias `bias_choice_E` has no gradient: a rule of training moves it against the
    load of its expert, and there is none here.
    """
    return partial(_sigmoid_router, groups=groups, top_groups=top_groups)


def expert_one_hot(choices: Sequence[Choice], experts: int) -> jax.Array:
    """float32 (B, L, E): 1 where the token chose the expert."""
    chosen = [jax.nn.one_hot(c.expert_BL, experts) for c in choices]
    return sum(chosen[1:], start=chosen[0])


class Slots(NamedTuple):
    """The assignment of tokens to slots: B groups (rows, or one group of all rows
    concatenated) of E times C slots.

    token_BEC: int32, the group's token in each slot, L where it is empty.
    slot_of_token: for each choice the slot e C + c of each token, int32 (B, L) of
    groups, E C where there is none. weights: a function from the experts' weights
    (leading E) to those of the slots' E.
    """

    token_BEC: jax.Array
    slot_of_token: list[jax.Array]
    weights: Callable[[jax.Array], jax.Array]


# From the choices and the number of experts.
Dispatch = Callable[[Sequence[Choice], int], Slots]


def capacity_dispatch(factor: float) -> Dispatch:
    """ceil(factor k L / E) slots of each expert in each row (GShard, Lepikhin et al.
    2020, arXiv 2006.16668, algorithm 1, a row a group). At most L.

    Tokens after an expert's last slot are dropped. Memory and traffic are fixed, and
    slots are sharded with their experts (mesh axis `expert`). Rows are independent;
    documents in one row share its slots. Decoding token by token never drops, so it
    equals whole rows only where these drop nothing.
    """
    if factor <= 0:
        raise ValueError(f"capacity factor: expected more than 0, got {factor}")

    def slots(choices: Sequence[Choice], experts: int) -> Slots:
        length = choices[0].expert_BL.shape[1]
        size = min(length, math.ceil(factor * len(choices) * length / experts))
        ranks, _ = _ranks_and_counts(choices, experts)
        slot_of_token = [
            jnp.where(rank_BL < size, c.expert_BL * size + rank_BL, experts * size)
            for c, rank_BL in zip(choices, ranks, strict=True)
        ]
        return Slots(
            _token_of_slot(slot_of_token, experts, size), slot_of_token, lambda w: w
        )

    return slots


def dropless_dispatch(block: int = 64) -> Dispatch:
    """Blocks of `block` slots of one expert each, as many as its tokens in all rows
    need: no token is dropped (MegaBlocks, Gale et al. 2022, arXiv 2211.15841).

    At most E (block - 1) slots stay empty. On a mesh the tokens and the experts'
    weights are gathered: correct everywhere, fast where they are few.
    """
    if block < 1:
        raise ValueError(f"dropless: expected a block of at least 1, got {block}")

    def slots(choices: Sequence[Choice], experts: int) -> Slots:
        flat = [Choice(*(a.reshape(1, -1) for a in c)) for c in choices]
        tokens = flat[0].expert_BL.shape[1]
        # The open sizes of an exported program cannot be compared.
        is_open = not isinstance(tokens, int)
        chosen, size = len(choices) * tokens, block if is_open else min(block, tokens)
        # The number of blocks in the worst case; each has at least one token.
        blocks = (chosen + experts * (size - 1)) // size
        blocks = blocks if is_open else min(chosen, blocks)
        ranks, count_BE = _ranks_and_counts(flat, experts)
        last_E = jnp.cumsum(-(-count_BE[0] // size))
        first_E = jnp.concatenate([jnp.zeros(1, jnp.int32), last_E[:-1]])
        slot_of_token = [
            first_E[c.expert_BL] * size + rank_BL
            for c, rank_BL in zip(flat, ranks, strict=True)
        ]
        expert_E = jnp.searchsorted(last_E, jnp.arange(blocks), side="right")
        expert_E = jnp.minimum(expert_E, experts - 1)

        def weights(w: jax.Array) -> jax.Array:
            # float32, so that the blocks' gradients are summed in float32.
            return w.astype(jnp.float32)[expert_E].astype(w.dtype)

        return Slots(
            _token_of_slot(slot_of_token, blocks, size), slot_of_token, weights
        )

    return slots


def dense_dispatch(choices: Sequence[Choice], experts: int) -> Slots:
    """A slot of each expert for each token: all experts compute all tokens, and no
    token is dropped.

    E / k times the operations of the chosen ones, but no size depends on the choices:
    for programs whose sizes are open.
    """
    rows, length = choices[0].expert_BL.shape
    index_L = masks.indices(length)
    token_BEC = jnp.broadcast_to(index_L[None, None], (rows, experts, length))
    slot_of_token = [c.expert_BL * length + index_L[None] for c in choices]
    return Slots(token_BEC, slot_of_token, lambda w: w)


def _ranks_and_counts(
    choices: Sequence[Choice], experts: int
) -> tuple[list[jax.Array], jax.Array]:
    """For each choice the number of earlier tokens of the group with the same expert,
    and the number of tokens of each expert, (B, E)."""
    chosen_BLE = expert_one_hot(choices, experts).astype(jnp.int32)
    before_BLE = jnp.cumsum(chosen_BLE, axis=1) - chosen_BLE
    ranks = [
        jnp.take_along_axis(before_BLE, c.expert_BL[..., None], axis=2)[..., 0]
        for c in choices
    ]
    return ranks, chosen_BLE.sum(1)


def _token_of_slot(
    slot_of_token: Sequence[jax.Array], experts: int, size: int
) -> jax.Array:
    """The inverse of `slot_of_token`: the token in each slot, (B, E, C)."""
    length = slot_of_token[0].shape[1]

    @jax.vmap
    def group(*slot_of_token: jax.Array) -> jax.Array:
        token = jnp.full(experts * size, length, jnp.int32)
        for slot in slot_of_token:
            token = token.at[slot].set(jnp.arange(length), mode="drop")
        return token

    return group(*slot_of_token).reshape(-1, experts, size)


def dispatch(x_BLD: jax.Array, slots: Slots) -> jax.Array:
    """(E, B, C, D) of groups: the features of each slot's token, 0 in empty slots. E is
    first, as in the weights, so that their product is a plain batched matmul."""
    groups, experts, size = slots.token_BEC.shape
    tokens = x_BLD.reshape(groups, -1, x_BLD.shape[-1])
    slots_BCD = _take(tokens, slots.token_BEC.reshape(groups, -1))
    # Each device gathers the tokens of its own rows; then one all-to-all moves them to
    # E.
    slots_BCD = constrain(slots_BCD, "BCD")
    return slots_BCD.reshape(groups, experts, size, -1).swapaxes(0, 1)


def combine(
    y_EBCD: jax.Array, slots: Slots, choices: Sequence[Choice], *, like: jax.Array
) -> jax.Array:
    """The gated sum of each token's expert outputs, in the shape and dtype of `like`,
    (B, L, D); a choice without a slot adds 0."""
    _, groups, _, width = y_EBCD.shape
    slots_BCD = y_EBCD.swapaxes(0, 1).reshape(groups, -1, width)
    slots_BCD = constrain(slots_BCD, "BCD")
    total = 0.0
    for slot_BL, choice in zip(slots.slot_of_token, choices, strict=True):
        y_BLD = _take(slots_BCD, slot_BL).reshape(like.shape)
        total = total + choice.gate_BL[..., None] * y_BLD
    return jnp.asarray(total, like.dtype)


def _take(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Features at `index` along the second dimension; 0 beyond its end."""
    return jnp.take_along_axis(rows, index[..., None], 1, mode="fill", fill_value=0)
