"""Auxiliary losses of a mixture-of-experts router: balanced load, small logits.

They work on what `network.moe.experts` sows into the collection `routing`, and return a
`Loss` weighted by the targets of the main one, so that padding does not count and
coefficient * total is added to the main total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.axes import sown_arrays
from transformer.objectives.loss import Loss


def load_balancing_loss(
    logits_BLE: jax.Array, chosen_BLE: jax.Array, weight_BL: jax.Array
) -> Loss:
    """E sum_E f p for each row, times the row's weight: f_E the fraction of the row's
    choices that fell on an expert, p_E its mean probability. 1 where both are uniform.

    It is Switch's loss (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6) with
    rows as groups, as in GShard (arXiv 2006.16668, algorithm 1): a product of means
    over a batch does not add over its parts, products of means over rows do, so that
    microbatches and devices sum to the same. The gradient flows through p; f is a
    constant.
    """
    experts = logits_BLE.shape[-1]
    weight_BLE = weight_BL[..., None].astype(jnp.float32)
    count_BE = jnp.sum(chosen_BLE * weight_BLE, axis=1)
    fraction_BE = count_BE / jnp.maximum(count_BE.sum(-1, keepdims=True), 1e-9)
    # The mean probability times the row's weight is the sum.
    probability_BE = jnp.sum(jax.nn.softmax(logits_BLE) * weight_BLE, axis=1)
    product_BE = jax.lax.stop_gradient(fraction_BE) * probability_BE
    return Loss(experts * jnp.sum(product_BE), weight_BL.sum(), {})


def router_z_loss(logits_BLE: jax.Array, weight_BL: jax.Array) -> Loss:
    """logsumexp(router logits)^2, summed over the weighted tokens: the z-loss of ST-MoE
    (Zoph et al. 2022, arXiv 2202.08906, equation 5)."""
    log_sum_BL = jax.nn.logsumexp(logits_BLE, axis=-1)
    total = jnp.sum(jnp.square(log_sum_BL) * weight_BL)
    return Loss(total, weight_BL.sum(), {})


def router_outputs(routing: Any) -> list[dict[str, jax.Array]]:
    """The arrays that each layer's router sowed in the collection `routing`, by
    name, the first layer first: logits_BLE, chosen_BLE and kept_BL of
    `network.moe.experts`."""
    names = "logits_BLE", "chosen_BLE", "kept_BL"
    layers = zip(*(sown_arrays(routing, name) for name in names), strict=True)
    return [dict(zip(names, layer, strict=True)) for layer in layers]


def router_losses(
    layers: Sequence[dict[str, jax.Array]],
    weight_BL: jax.Array,
    *,
    load_coefficient: float = 0.01,
    z_coefficient: float = 0.001,
) -> Loss:
    """Router losses summed over layers (of `router_outputs`): load_coefficient *
    `load_balancing_loss` + z_coefficient * `router_z_loss`.

    sums, each a mean over layers times the weight: load_balance_loss, and
    dispatched_fraction (of the choices, those within the experts' capacity). The
    coefficients are those of Switch (section 2.2) and ST-MoE (section 4).
    """
    total = load_balance = dispatched = jnp.float32(0)
    for layer in layers:
        load = load_balancing_loss(layer["logits_BLE"], layer["chosen_BLE"], weight_BL)
        z = router_z_loss(layer["logits_BLE"], weight_BL)
        total = total + load_coefficient * load.total + z_coefficient * z.total
        load_balance = load_balance + load.total / len(layers)
        dispatched = dispatched + jnp.sum(layer["kept_BL"] * weight_BL) / len(layers)
    sums = {"load_balance_loss": load_balance, "dispatched_fraction": dispatched}
    return Loss(total, weight_BL.sum(), jax.lax.stop_gradient(sums))


def expert_token_counts(
    layers: Sequence[dict[str, jax.Array]],
    batch: Mapping[str, jax.Array],
    *,
    vocab_size: int,
) -> jax.Array:
    """How often each token id of the weighted ids_BL chose each expert of each layer:
    float32 (N, E, V)."""
    weight_BLE = batch["weight_BL"][..., None]
    chosen_BLNE = jnp.stack([a["chosen_BLE"] * weight_BLE for a in layers], axis=2)
    counts_VNE = jnp.zeros((vocab_size, *chosen_BLNE.shape[2:]))
    counts_VNE = counts_VNE.at[batch["ids_BL"]].add(chosen_BLNE)
    return jnp.moveaxis(counts_VNE, 0, -1)
