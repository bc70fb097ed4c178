"""Losses that keep a mixture's router honest: equal load, small logits.

They work on what `network.experts` tells in the collection `routing` of each layer, and
return a `Loss` weighted by the same targets as the main one, so padding does not count
and coefficient * balance.total is added to the main total.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.axes import dimensions, leaf_name
from transformer.objectives.loss import Loss


def load(logits_BLE: jax.Array, chosen_BLE: jax.Array, weight_BL: jax.Array) -> Loss:
    """E sum_E f p for each row, times the row's weight: f_E the share of the row's
    choices that fell on an expert, p_E its mean probability. 1 where both are uniform.

    It is Switch's loss (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6), a row
    a group as in GShard (arXiv 2006.16668, algorithm 1): a product of means does not
    add, but the rows' do, so that parts of a batch and devices give the same sum. The
    gradient flows through p; f counts.
    """
    experts = logits_BLE.shape[-1]
    weight_BLE = weight_BL[..., None].astype(jnp.float32)
    chosen_BE = jnp.sum(chosen_BLE * weight_BLE, axis=1)
    share_BE = chosen_BE / jnp.maximum(chosen_BE.sum(-1, keepdims=True), 1e-9)
    # The mean probability times the row's weight, which is the sum.
    mass_BE = jnp.sum(jax.nn.softmax(logits_BLE) * weight_BLE, axis=1)
    total = experts * jnp.sum(jax.lax.stop_gradient(share_BE) * mass_BE)
    return Loss(total, weight_BL.sum(), {})


def drift(logits_BLE: jax.Array, weight_BL: jax.Array) -> Loss:
    """The square of the log of the router's softmax total, summed over the weighted
    tokens: the z-loss of ST-MoE (Zoph et al. 2022, arXiv 2202.08906, equation 5)."""
    log_total_BL = jax.nn.logsumexp(logits_BLE, axis=-1)
    total = jnp.sum(jnp.square(log_total_BL) * weight_BL)
    return Loss(total, weight_BL.sum(), {})


def _natural(path: Any) -> tuple[Any, ...]:
    """Layer 2 before layer 10."""
    key = jax.tree_util.keystr(path, simple=True, separator="/")
    return tuple((len(part), part) for part in key.split("/"))


def told(routing: Any) -> Iterator[dict[str, jax.Array]]:
    """The arrays by name that each layer kept in the collection `routing`, layer after
    layer, from unrolled stacks and scanned ones."""
    leaves = jax.tree_util.tree_flatten_with_path(routing)[0]
    named: dict[str, list[jax.Array]] = {}
    for path, leaf in sorted(leaves, key=lambda kept: _natural(kept[0])):
        named.setdefault(leaf_name(path), []).append(leaf)
    flat = {
        name: [
            layer
            for a in arrays
            for layer in a.reshape(-1, *a.shape[-len(dimensions(name)) :])
        ]
        for name, arrays in named.items()
    }
    for layer in zip(*flat.values(), strict=True):
        yield dict(zip(flat, layer, strict=True))


def over_layers(
    layers: Sequence[dict[str, jax.Array]],
    weight_BL: jax.Array,
    *,
    load_coefficient: float = 0.01,
    drift_coefficient: float = 0.001,
) -> Loss:
    """What `told` tells of all layers: the total of load_coefficient `load` +
    drift_coefficient `drift`, with the sums `balance` (`load`) and `kept` (choices that
    found a slot), each a mean over layers times the weight.

    The coefficients are those of Switch (section 2.2) and ST-MoE (section 4).
    """
    total = balance = kept = jnp.float32(0)
    for layer in layers:
        one = load(layer["logits_BLE"], layer["chosen_BLE"], weight_BL).total
        wide = drift(layer["logits_BLE"], weight_BL).total
        total = total + load_coefficient * one + drift_coefficient * wide
        balance = balance + one / len(layers)
        kept = kept + jnp.sum(layer["kept_BL"] * weight_BL) / len(layers)
    sums = {"balance": balance, "kept": kept}
    return Loss(total, weight_BL.sum(), jax.lax.stop_gradient(sums))


def choices(
    layers: Sequence[dict[str, jax.Array]],
    batch: Mapping[str, jax.Array],
    *,
    vocabulary: int,
) -> jax.Array:
    """How often each symbol of the batch's ids_BL, where weight_BL counts it, chose
    each layer's experts: float32 (N, E, V)."""
    weight_BLE = batch["weight_BL"][..., None]
    chosen_BLNE = jnp.stack([a["chosen_BLE"] * weight_BLE for a in layers], axis=2)
    counts_VNE = jnp.zeros((vocabulary, *chosen_BLNE.shape[2:]))
    counts_VNE = counts_VNE.at[batch["ids_BL"]].add(chosen_BLNE)
    return jnp.moveaxis(counts_VNE, 0, -1)
