"""Masked generation: tokens are masked, and unmasked in the order of confidence.

MaskGIT (Chang et al. 2022, arXiv 2202.04200, sections 3.1 and 3.2): at time t the
fraction cos(pi t / 2) of a row is masked. Training masks that many random positions and
predicts them, which at a constant ratio is BERT's objective; generation samples all
masked tokens at once and keeps those of the highest confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.flow_matching import times, uniform_times
from transformer.processes.process import NoisedExample, Process

SampleTime = Callable[[jax.Array, int], jax.Array]


# The least divisor of logits in float32.
COLDEST = 1e-30


def mask_ratio(t: Any) -> jax.Array:
    """The masked fraction at time t: 1 at t = 0, 0 at t = 1."""
    return jnp.cos(jnp.pi / 2 * jnp.asarray(t, jnp.float32))


def num_masked(t: Any, length: Any) -> jax.Array:
    """The number of masked positions among `length` at time t, int32, rounded up (with
    a tolerance for float32 rounding)."""
    return jnp.ceil(mask_ratio(t) * length - 1e-4).astype(jnp.int32)


def max_masked(ratio: float, length: int) -> int:
    """A bound of `num_masked` where the fraction `ratio` is masked, for static shapes:
    one too many, because that rounds in float32."""
    return min(math.ceil(ratio * length) + 1, length)


def lowest_k_mask(score_BL: jax.Array, k_B: jax.Array) -> jax.Array:
    """bool (B, L): the k positions of each row with the lowest scores."""
    rank_BL = jnp.argsort(jnp.argsort(score_BL, axis=-1), axis=-1)
    return rank_BL < k_B[:, None]


def corrupt(
    ids_BL: jax.Array,
    t_B: jax.Array,
    key: jax.Array,
    *,
    mask_id: int,
    real_BL: jax.Array | None = None,
) -> NoisedExample:
    """`mask_id` in as many random positions as are masked at t; those have weight 1.
    real_BL: bool, False for padding, which is never masked and has no weight."""
    noise_BL = jax.random.uniform(key, ids_BL.shape)
    length: Any = ids_BL.shape[1]
    if real_BL is not None:
        noise_BL, length = jnp.where(real_BL, noise_BL, jnp.inf), real_BL.sum(1)
    masked_BL = lowest_k_mask(noise_BL, num_masked(t_B, length))
    inputs_BL = jnp.where(masked_BL, mask_id, ids_BL)
    return NoisedExample(inputs_BL, ids_BL, masked_BL.astype(jnp.float32))


def uniform_mask_ratio_times(key: jax.Array, rows: int) -> jax.Array:
    """Times (B,) whose mask ratio is uniform in [0, 1)."""
    return 2 / jnp.pi * jnp.arccos(jax.random.uniform(key, (rows,)))


def corrupt_elbo_weighted(
    ids_BL: jax.Array, t_B: jax.Array, key: jax.Array, *, mask_id: int
) -> NoisedExample:
    """As `corrupt`, with the weights of each row's masked positions summing to L."""
    inputs_BL, target_BL, masked_BL = corrupt(ids_BL, t_B, key, mask_id=mask_id)
    masked_B1 = jnp.maximum(masked_BL.sum(1, keepdims=True), 1)
    weight_BL = masked_BL * (ids_BL.shape[1] / masked_B1)
    return NoisedExample(inputs_BL, target_BL, weight_BL)


def fully_masked(key: jax.Array, like: Any, *, mask_id: int) -> jax.Array:
    """Rows of `mask_id` alone."""
    return jnp.full(like.shape, mask_id, like.dtype)


def unmask_step(
    ids_BL: jax.Array,
    logits_BLV: jax.Array,
    t: Any,
    t_next: Any,
    key: jax.Array,
    *,
    mask_id: int,
    temperature: float,
    choice_temperature: float,
) -> jax.Array:
    """Sample every masked token, then mask those of the lowest confidence again.

    Tokens unmasked before stay. temperature: of the sampling; 0 samples among the most
    likely. choice_temperature: scale of the Gumbel noise on the confidences, which
    falls to 0 at time 1.
    """
    sample_key, noise_key = (jax.random.fold_in(key, i) for i in (0, 1))
    logits_BLV = logits_BLV.at[..., mask_id].set(-jnp.inf)
    # Relative to the maximum, so that no temperature overflows.
    behind_BLV = logits_BLV - logits_BLV.max(-1, keepdims=True)
    scaled_BLV = behind_BLV / jnp.maximum(temperature, COLDEST)
    sample_BL = jax.random.categorical(sample_key, scaled_BLV)
    log_p_BLV = jax.nn.log_softmax(logits_BLV)
    log_p_BL = jnp.take_along_axis(log_p_BLV, sample_BL[..., None], axis=-1)[..., 0]
    gumbel_BL = jax.random.gumbel(noise_key, ids_BL.shape)
    was_masked_BL = ids_BL == mask_id
    confidence_BL = jnp.where(
        was_masked_BL,
        log_p_BL + choice_temperature * (1 - t_next) * gumbel_BL,
        jnp.inf,
    )
    masked_B = jnp.broadcast_to(num_masked(t_next, ids_BL.shape[1]), ids_BL.shape[:1])
    filled_BL = jnp.where(was_masked_BL, sample_BL.astype(ids_BL.dtype), ids_BL)
    again_BL = lowest_k_mask(confidence_BL, masked_B) & was_masked_BL
    return jnp.where(again_BL, mask_id, filled_BL)


def constant_mask_ratio(ratio: float) -> SampleTime:
    """For every row the time at which the fraction `ratio` is masked: BERT's objective.

    ValueError unless 0 < ratio <= 1.
    """
    if not 0 < ratio <= 1:
        raise ValueError(
            f"mask ratio: expected a number above 0 and at most 1, got {ratio}"
        )
    return lambda key, rows: jnp.full(rows, 2 / math.pi * math.acos(ratio))


def process(
    *,
    mask_id: int,
    sample_time: SampleTime = uniform_times,
    temperature: float = 1.0,
    choice_temperature: float = 4.5,
    real_BL: jax.Array | None = None,
) -> Process:
    """Masked generation of ids (B, L) int32, masked where they equal `mask_id`; the
    model predicts float32 logits (B, L, V) of the token at each position. real_BL: of
    `corrupt`."""
    return Process(
        sample_time,
        partial(corrupt, mask_id=mask_id, real_BL=real_BL),
        partial(fully_masked, mask_id=mask_id),
        partial(
            unmask_step,
            mask_id=mask_id,
            temperature=temperature,
            choice_temperature=choice_temperature,
        ),
        times,
    )


def fixed_ratio_process(
    ratio: float, *, mask_id: int, real_BL: jax.Array | None = None
) -> Process:
    """The process at the time at which the fraction `ratio` is masked: BERT's
    objective. real_BL: of `corrupt`. Errors as `constant_mask_ratio`."""
    return process(
        mask_id=mask_id, sample_time=constant_mask_ratio(ratio), real_BL=real_BL
    )


def elbo_process(mask_id: int) -> Process:
    """The process for evaluation: its mean cross-entropy is an upper bound of the nats
    per token when tokens are unmasked one at a time in random order (Hoogeboom et al.
    2021, arXiv 2110.02037, section 3)."""
    masked = process(mask_id=mask_id, sample_time=uniform_mask_ratio_times)
    return masked._replace(corrupt=partial(corrupt_elbo_weighted, mask_id=mask_id))
