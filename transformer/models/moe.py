"""A mixture of experts in the slot `make_mlp` of a model, and its dense equivalent."""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from transformer.models import defaults
from transformer.network.moe import routing
from transformer.network.moe.experts import MixtureOfExperts


def expert_mlp(
    *,
    width: int,
    experts: int,
    experts_per_token: int,
    expert_width: int,
    capacity_factor: float | None = None,
) -> defaults.MakeOfWidth:
    """`experts` MLPs of `expert_width` hidden features as `defaults.mlp`, with a router
    of unit logits. capacity_factor: as in `routing.capacity_dispatch`; None drops no
    token."""
    dispatch = routing.dropless_dispatch()
    if capacity_factor is not None:
        dispatch = routing.capacity_dispatch(capacity_factor)
    return partial(
        MixtureOfExperts,
        width=width,
        hidden_features=expert_width,
        experts=experts,
        experts_per_token=experts_per_token,
        gates=routing.softmax_gates,
        dispatch=dispatch,
        activation=defaults.relu_squared,
        router_init=nn.initializers.normal(width**-0.5),
        weight_init=defaults.fan_in_init(batch_axis=0),
        output_init=defaults.ZERO,
    )


def dense_equivalent(
    *, width: int, experts: int, experts_per_token: int, expert_width: int
) -> defaults.MakeOfWidth:
    """A `defaults.mlp` of as many operations per token as `expert_mlp`: as wide as the
    chosen experts, and as costly as the router, D E = 2 D (E / 2)."""
    hidden_features = experts_per_token * expert_width + experts // 2
    return defaults.mlp(width=width, hidden_features=hidden_features)
