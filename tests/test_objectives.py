"""Objectives against -log softmax by hand, and their sums."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from transformer.objectives import cross_entropy, fused_cross_entropy
from transformer.objectives.loss import Loss

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(3 * RNG.normal(size=(3, 6, 11)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 11, (3, 6)), jnp.int32)
WEIGHT = jnp.asarray(RNG.integers(0, 3, (3, 6)), jnp.float32)
FEATURES = jnp.asarray(RNG.normal(size=(3, 6, 4)), jnp.float32)
READOUT = jnp.asarray(RNG.normal(size=(11, 4)), jnp.float32)
# -log softmax, every symbol, in float64.
NATS = -np.log(
    np.exp(np.asarray(LOGITS, np.float64))
    / np.exp(np.asarray(LOGITS, np.float64)).sum(-1, keepdims=True)
)
TARGET_NATS = np.take_along_axis(NATS, np.asarray(TARGETS)[..., None], -1)[..., 0]


def test_cross_entropy_is_minus_log_softmax() -> None:
    loss = jax.jit(cross_entropy.cross_entropy)(LOGITS, TARGETS, WEIGHT)
    total = (TARGET_NATS * np.asarray(WEIGHT)).sum()
    hits = np.asarray(LOGITS).argmax(-1) == np.asarray(TARGETS)
    close(total, loss.total)
    assert loss.weight == loss.sums["tokens"] == WEIGHT.sum()
    assert loss.sums["nats"] == loss.total
    assert loss.sums["correct"] == (hits * np.asarray(WEIGHT)).sum() > 0


def test_its_gradient_is_softmax_minus_one_hot() -> None:
    def total(logits: jax.Array) -> jax.Array:
        return cross_entropy.cross_entropy(logits, TARGETS, WEIGHT).total

    expected = (np.exp(-NATS) - np.eye(11)[np.asarray(TARGETS)]) * np.asarray(WEIGHT)[
        ..., None
    ]
    close(expected, jax.jit(jax.grad(total))(LOGITS))


def test_large_logits_do_not_overflow() -> None:
    loss = cross_entropy.cross_entropy(1e4 * LOGITS, TARGETS, WEIGHT)
    assert np.isfinite(loss.total) and loss.total > 0


def test_label_smoothing_is_a_cross_entropy_against_a_mixture() -> None:
    loss = jax.jit(cross_entropy.label_smoothing(0.2))(LOGITS, TARGETS, WEIGHT)
    aim = 0.8 * np.eye(11)[np.asarray(TARGETS)] + 0.2 / 11
    close(((aim * NATS).sum(-1) * np.asarray(WEIGHT)).sum(), loss.total)
    plain = cross_entropy.cross_entropy(LOGITS, TARGETS, WEIGHT)
    close((plain.weight, plain.sums), (loss.weight, loss.sums))


def test_z_loss_adds_the_square_of_the_log_total() -> None:
    objective = cross_entropy.z_loss(cross_entropy.cross_entropy, 0.1)
    loss = jax.jit(objective)(LOGITS, TARGETS, WEIGHT)
    log_total = np.log(np.exp(np.asarray(LOGITS, np.float64)).sum(-1))
    drift = (log_total**2 * np.asarray(WEIGHT)).sum()
    plain = cross_entropy.cross_entropy(LOGITS, TARGETS, WEIGHT)
    close(float(plain.total) + 0.1 * drift, loss.total)
    close((plain.weight, plain.sums), (loss.weight, loss.sums))


OBJECTIVES = {
    "cross-entropy": cross_entropy.cross_entropy,
    "smoothed, with z-loss": cross_entropy.z_loss(
        cross_entropy.label_smoothing(0.1), 0.01
    ),
}
WHOLE = [partial(cross_entropy.from_features, o) for o in OBJECTIVES.values()]
CHUNKED = {
    **{
        f"{name}, {chunks}": (whole, partial(whole, chunks=chunks))
        for name, whole in zip(OBJECTIVES, WHOLE, strict=True)
        for chunks in (2, 6)
    },
    "fused": (WHOLE[0], partial(fused_cross_entropy.cross_entropy, chunks=3)),
}


@pytest.mark.parametrize(("whole", "parts"), CHUNKED.values(), ids=CHUNKED)
def test_a_loss_in_chunks_equals_the_whole(whole: Any, parts: Any) -> None:
    """Values and gradients, of features, readout and weights."""

    @partial(jax.jit, static_argnums=0)
    def run(loss: Any, *arrays: jax.Array) -> Any:
        def total(x: jax.Array, w: jax.Array, weight: jax.Array) -> Any:
            out = loss(x, w, TARGETS, weight)
            return out.total / out.weight, out

        return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*arrays)

    expected = run(whole, FEATURES, READOUT, WEIGHT)
    close(expected, run(parts, FEATURES, READOUT, WEIGHT))


def test_the_whole_is_the_objective_of_the_logits() -> None:
    logits = jnp.einsum("BLD,VD->BLV", FEATURES, READOUT)
    expected = cross_entropy.cross_entropy(logits, TARGETS, WEIGHT)
    close(expected, WHOLE[0](FEATURES, READOUT, TARGETS, WEIGHT))


def test_chunks_never_hold_all_logits() -> None:
    """The memory of value and gradient shrinks with the chunks."""

    def memory(chunks: int) -> int:
        def total(x: jax.Array, w: jax.Array) -> jax.Array:
            loss = cross_entropy.from_features(
                cross_entropy.cross_entropy, x, w, targets, weight, chunks=chunks
            )
            return loss.total

        x, w = jnp.zeros((2, 64, 4)), jnp.zeros((1000, 4))
        targets, weight = jnp.zeros((2, 64), jnp.int32), jnp.ones((2, 64))
        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x, w).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(8) < memory(1) / 3


@pytest.mark.parametrize("loss", [WHOLE[0], fused_cross_entropy.cross_entropy])
def test_chunks_must_divide_the_row(loss: Any) -> None:
    with pytest.raises(ValueError, match="chunks: expected a divisor of 6, got 4"):
        loss(FEATURES, READOUT, TARGETS, WEIGHT, chunks=4)


def test_narrow_features_make_wide_losses() -> None:
    narrow = FEATURES.astype(jnp.bfloat16), READOUT.astype(jnp.bfloat16)
    loss = WHOLE[0](*narrow, TARGETS, WEIGHT)
    assert loss.total.dtype == jnp.float32
    close(WHOLE[0](FEATURES, READOUT, TARGETS, WEIGHT).total, loss.total, 2e-2)


def test_losses_add() -> None:
    whole = cross_entropy.cross_entropy(LOGITS, TARGETS, WEIGHT)
    rows = [
        cross_entropy.cross_entropy(
            LOGITS[i : i + 1], TARGETS[i : i + 1], WEIGHT[i : i + 1]
        )
        for i in range(3)
    ]
    close(whole, jax.tree.map(lambda *parts: sum(parts), *rows))


def test_bits_per_byte_do_not_depend_on_the_vocabulary() -> None:
    """A text of 8 bytes told as 8 bytes of 1 bit, or as 2 symbols of 4 bits."""

    def told(symbols: int, nats: float, width: int) -> float:
        targets, weight = jnp.zeros((1, symbols), jnp.int32), jnp.ones((1, symbols))
        loss = Loss(jnp.float32(nats), weight.sum(), {"nats": jnp.float32(nats)})
        bytes_V = np.array([width], np.int32)
        return cross_entropy.bits_per_byte(
            cross_entropy.with_bytes(loss, targets, weight, bytes_V)
        )

    assert told(8, 8 * math.log(2), 1) == pytest.approx(1.0)
    assert told(2, 8 * math.log(2), 4) == pytest.approx(1.0)


def test_bytes_are_those_of_the_weighted_targets() -> None:
    loss = cross_entropy.cross_entropy(LOGITS, TARGETS, WEIGHT)
    bytes_V = np.arange(11)
    got = cross_entropy.with_bytes(loss, TARGETS, WEIGHT, bytes_V)
    assert got.sums["bytes"] == (np.asarray(TARGETS) * np.asarray(WEIGHT)).sum()
    assert set(got.sums) == {"nats", "correct", "tokens", "bytes"}
    assert got.total == loss.total
