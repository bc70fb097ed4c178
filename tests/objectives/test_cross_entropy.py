"""Cross-entropy against -log softmax by hand; chunked and fused against the whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from transformer import axes
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(3, 6, 11))).astype(np.float32)
TARGETS = RNG.integers(0, 11, (3, 6)).astype(np.int32)
WEIGHT = RNG.integers(0, 3, (3, 6)).astype(np.float32)
FEATURES = RNG.normal(size=(3, 6, 4)).astype(np.float32)
UNEMBEDDING = RNG.normal(size=(11, 4)).astype(np.float32)
# -log softmax of every token of the vocabulary, in float64.
NATS = -np.log(
    np.exp(LOGITS.astype(np.float64))
    / np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True)
)
TARGET_NATS = np.take_along_axis(NATS, TARGETS[..., None], -1)[..., 0]

plain_cross_entropy = jax.jit(cross_entropy.cross_entropy)


def test_cross_entropy_is_minus_log_softmax() -> None:
    loss = plain_cross_entropy(LOGITS, TARGETS, WEIGHT)
    total = (TARGET_NATS * WEIGHT).sum()
    hits = LOGITS.argmax(-1) == TARGETS
    close(total, loss.total)
    assert loss.weight == loss.sums["tokens"] == WEIGHT.sum()
    assert loss.sums["nats"] == loss.total
    assert loss.sums["correct"] == (hits * WEIGHT).sum() > 0


def test_gradient_of_cross_entropy_is_softmax_minus_one_hot() -> None:
    def total(logits: jax.Array) -> jax.Array:
        return cross_entropy.cross_entropy(logits, TARGETS, WEIGHT).total

    expected = (np.exp(-NATS) - np.eye(11)[TARGETS]) * WEIGHT[..., None]
    close(expected, jax.jit(jax.grad(total))(LOGITS))


def test_large_logits_do_not_overflow() -> None:
    loss = plain_cross_entropy(1e4 * LOGITS, TARGETS, WEIGHT)
    assert np.isfinite(loss.total) and loss.total > 0


def test_classification_is_the_cross_entropy_of_one_label_a_row() -> None:
    logits_BV, label_B, weight_B = LOGITS[:, 0], TARGETS[:, 0], WEIGHT[:, 0] + 0.5
    loss = jax.jit(cross_entropy.classification)(logits_BV, label_B, weight_B)
    weight = np.asarray(weight_B, np.float64)
    hits = np.asarray(logits_BV).argmax(-1) == np.asarray(label_B)
    close((TARGET_NATS[:, 0] * weight).sum(), loss.total)
    close((weight.sum(), (hits * weight).sum()), (loss.weight, loss.sums["correct"]))
    smooth = cross_entropy.label_smoothing(0.3)
    classification = jax.jit(partial(cross_entropy.classification, objective=smooth))
    got = classification(logits_BV, label_B, weight_B)
    uniform = (NATS[:, 0].mean(-1) * weight).sum()
    close(0.7 * float(loss.total) + 0.3 * uniform, got.total)


def test_label_smoothing_is_a_cross_entropy_against_a_mixture() -> None:
    loss = jax.jit(cross_entropy.label_smoothing(0.2))(LOGITS, TARGETS, WEIGHT)
    target = 0.8 * np.eye(11)[TARGETS] + 0.2 / 11
    close(((target * NATS).sum(-1) * WEIGHT).sum(), loss.total)
    plain = plain_cross_entropy(LOGITS, TARGETS, WEIGHT)
    close((plain.weight, plain.sums), (loss.weight, loss.sums))


def test_z_loss_adds_the_square_of_logsumexp() -> None:
    objective = cross_entropy.z_loss(cross_entropy.cross_entropy, 0.1)
    loss = jax.jit(objective)(LOGITS, TARGETS, WEIGHT)
    log_sum = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
    squares = (log_sum**2 * WEIGHT).sum()
    plain = plain_cross_entropy(LOGITS, TARGETS, WEIGHT)
    close(float(plain.total) + 0.1 * squares, loss.total)
    close((plain.weight, plain.sums), (loss.weight, loss.sums))


OBJECTIVES = {
    "cross-entropy": cross_entropy.cross_entropy,
    "label smoothing and z-loss": cross_entropy.z_loss(
        cross_entropy.label_smoothing(0.1), 0.01
    ),
}
UNCHUNKED = [partial(cross_entropy.chunked_loss, o) for o in OBJECTIVES.values()]
CHUNKED = {
    **{
        f"{name}, {chunks}": (unchunked, partial(unchunked, chunks=chunks))
        for name, unchunked in zip(OBJECTIVES, UNCHUNKED, strict=True)
        for chunks in (2, 6)
    },
    "fused": (UNCHUNKED[0], partial(cross_entropy.fused_cross_entropy, chunks=3)),
}


@pytest.mark.parametrize(("unchunked", "chunked"), CHUNKED.values(), ids=CHUNKED)
def test_chunked_loss_equals_unchunked(unchunked: Any, chunked: Any) -> None:
    """Values and gradients of features, unembedding and weights."""

    @partial(jax.jit, static_argnums=0)
    def run(loss: Any, *arrays: jax.Array) -> Any:
        def mean(x: jax.Array, w: jax.Array, weight: jax.Array) -> Any:
            out = loss(x, w, TARGETS, weight)
            return out.total / out.weight, out

        return jax.value_and_grad(mean, argnums=(0, 1, 2), has_aux=True)(*arrays)

    expected = run(unchunked, FEATURES, UNEMBEDDING, WEIGHT)
    close(expected, run(chunked, FEATURES, UNEMBEDDING, WEIGHT))


def test_unchunked_loss_is_the_objective_of_the_logits() -> None:
    logits = np.einsum("BLD,VD->BLV", FEATURES, UNEMBEDDING)
    expected = plain_cross_entropy(logits, TARGETS, WEIGHT)
    close(expected, jax.jit(UNCHUNKED[0])(FEATURES, UNEMBEDDING, TARGETS, WEIGHT))


def test_chunks_never_hold_all_logits() -> None:
    """The memory of value and gradient shrinks with the chunks."""

    def memory(chunks: int) -> int:
        def total(x: jax.Array, w: jax.Array) -> jax.Array:
            loss = cross_entropy.chunked_loss(
                cross_entropy.cross_entropy, x, w, targets, weight, chunks=chunks
            )
            return loss.total

        x, w = np.zeros((2, 64, 4)), np.zeros((1000, 4))
        targets, weight = np.zeros((2, 64), np.int32), np.ones((2, 64))
        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(x, w).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(8) < memory(1) / 3


@pytest.mark.parametrize(
    "loss", [UNCHUNKED[0], cross_entropy.fused_cross_entropy], ids=["chunked", "fused"]
)
def test_chunks_must_divide_the_row(loss: Any) -> None:
    with pytest.raises(ValueError, match="chunks: expected a divisor of 6, got 4"):
        loss(FEATURES, UNEMBEDDING, TARGETS, WEIGHT, chunks=4)


def test_loss_of_bfloat16_features_is_float32() -> None:
    narrow = FEATURES.astype(jnp.bfloat16), UNEMBEDDING.astype(jnp.bfloat16)
    unchunked = jax.jit(UNCHUNKED[0])
    loss = unchunked(*narrow, TARGETS, WEIGHT)
    assert loss.total.dtype == jnp.float32
    expected = unchunked(FEATURES, UNEMBEDDING, TARGETS, WEIGHT).total
    close(expected, loss.total, 2e-2)


# The fused cross-entropy.

DTYPES = {"float32": 1e-5, "bfloat16": 3e-2}
ROWS, LENGTH, WIDTH, VOCAB_SIZE = 8, 8, 4, 11


def fused_arguments(dtype: str = "float32") -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    x_BLD = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(jnp.dtype(dtype))
    w_VD = rng.normal(size=(VOCAB_SIZE, WIDTH)).astype(jnp.dtype(dtype))
    targets_BL = rng.integers(0, VOCAB_SIZE, (ROWS, LENGTH)).astype(np.int32)
    weight_BL = rng.integers(0, 3, (ROWS, LENGTH)).astype(np.float32)
    return x_BLD, w_VD, targets_BL, weight_BL


def value_and_grad(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Of the mean, as in training, times 3, so that incoming gradients are scaled."""

    def scaled_mean(*arguments: Any) -> Any:
        out = loss(*arguments)
        return 3.0 * out.total / out.weight, out

    return jax.jit(jax.value_and_grad(scaled_mean, argnums=(0, 1), has_aux=True))


def to_float32(tree: Any) -> Any:
    return jax.tree.map(
        lambda a: np.asarray(a, np.float32) if a.dtype == jnp.bfloat16 else a, tree
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_fused_equals_unchunked(chunks: int, dtype: str) -> None:
    arguments = fused_arguments(dtype)
    x_BLD, w_VD = to_float32(arguments[:2])
    expected = value_and_grad(UNCHUNKED[0])(x_BLD, w_VD, *arguments[2:])
    got = value_and_grad(partial(cross_entropy.fused_cross_entropy, chunks=chunks))(
        *arguments
    )
    assert [g.dtype for g in got[1]] == [a.dtype for a in arguments[:2]]
    close(expected, to_float32(got), DTYPES[dtype])


@pytest.mark.parametrize("count", [3, 5])
def test_sparse_equals_fused_where_few_tokens_have_weight(count: int) -> None:
    *arguments, weight_BL = fused_arguments()
    place_BL = RNG.permuted(np.tile(np.arange(LENGTH), (ROWS, 1)), axis=1)
    arguments += [np.where(place_BL < 3, weight_BL + 1, 0)]
    sparse = partial(cross_entropy.masked_cross_entropy, count=count)
    expected = value_and_grad(cross_entropy.fused_cross_entropy)(*arguments)
    close(expected, value_and_grad(sparse)(*arguments))


def test_fused_on_a_mesh_equals_one_device() -> None:
    arguments = fused_arguments()
    expected = value_and_grad(UNCHUNKED[0])(*arguments)
    mesh = axes.make_mesh(data=2, fsdp=2, tensor=2)
    names = ("x_BLD", "w_VD", "targets_BL", "weight_BL")
    batch = dict(zip(names, arguments, strict=True))
    shardings = axes.shardings(mesh, batch, role="activation")
    with jax.set_mesh(mesh):
        sharded = jax.device_put(batch, shardings)
        fused = value_and_grad(partial(cross_entropy.fused_cross_entropy, chunks=2))
        got = fused(*(sharded[n] for n in names))
    close(expected, got)


def test_fused_never_holds_all_logits() -> None:
    """float32 logits of one chunk, whatever the number of chunks."""
    run = value_and_grad(partial(cross_entropy.fused_cross_entropy, chunks=4))
    text = run.lower(*fused_arguments()).as_text()
    assert f"tensor<{ROWS}x{LENGTH // 4}x{VOCAB_SIZE}xf32>" in text
    assert f"tensor<{ROWS}x{LENGTH}x{VOCAB_SIZE}xf32>" not in text


# Sums.


def test_losses_add_over_rows() -> None:
    full = plain_cross_entropy(LOGITS, TARGETS, WEIGHT)
    rows = [
        plain_cross_entropy(LOGITS[i : i + 1], TARGETS[i : i + 1], WEIGHT[i : i + 1])
        for i in range(3)
    ]
    close(full, jax.tree.map(lambda *parts: sum(map(float, parts)), *rows))


def test_bits_per_byte_do_not_depend_on_the_vocabulary() -> None:
    """8 bytes of text as 8 tokens of 1 bit, or as 2 tokens of 4 bits."""

    def bits(tokens: int, nats: float, width: int) -> float:
        targets, weight = np.zeros((1, tokens), np.int32), np.ones((1, tokens))
        loss: Any = Loss(nats, weight.sum(), {"nats": nats})
        bytes_V = np.array([width], np.int32)
        return cross_entropy.bits_per_byte(
            jax.jit(cross_entropy.add_byte_count)(loss, targets, weight, bytes_V)
        )

    assert bits(8, 8 * math.log(2), 1) == pytest.approx(1.0)
    assert bits(2, 8 * math.log(2), 4) == pytest.approx(1.0)


def test_byte_count_is_that_of_the_weighted_targets() -> None:
    loss = plain_cross_entropy(LOGITS, TARGETS, WEIGHT)
    bytes_V = np.arange(11)
    got = jax.jit(cross_entropy.add_byte_count)(loss, TARGETS, WEIGHT, bytes_V)
    assert got.sums["bytes"] == (TARGETS * WEIGHT).sum()
    assert set(got.sums) == {"nats", "correct", "tokens", "bytes"}
    assert got.total == loss.total


def test_classification_loss_is_the_classification_of_the_logits_of_a_batch() -> None:
    """The weights are those of the rows."""
    logits_BV, batch = (
        LOGITS[:, 0],
        {"label_B": TARGETS[:, 0], "weight_B": WEIGHT[:, 0]},
    )
    loss = cross_entropy.classification_loss(lambda params, batch: params * logits_BV)
    want = plain_cross_entropy(2 * LOGITS[:, :1], TARGETS[:, :1], WEIGHT[:, :1])
    close(want, jax.jit(loss)(2.0, batch, jax.random.key(0)))


def test_word_dropout_masks_any_token_but_the_first() -> None:
    ids_BL, key = np.arange(2000).reshape(200, 10) % 250, jax.random.key(0)
    word_dropout = jax.jit(partial(cross_entropy.word_dropout, mask_id=250))
    dropped_BL = np.asarray(word_dropout(ids_BL, key, 0.3))
    masked_BL = dropped_BL == 250
    np.testing.assert_array_equal(dropped_BL[~masked_BL], ids_BL[~masked_BL])
    assert not masked_BL[:, 0].any() and 0.25 < masked_BL[:, 1:].mean() < 0.35
    assert not (np.asarray(word_dropout(ids_BL, key, 0.0)) == 250).any()
