"""Logits with a soft cap or a scale: in losses, in decoding, in beam search."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close, language_model, random_params

from transformer import axes
from transformer.generation import beam_search, decoding, logit_filters
from transformer.models import decoder
from transformer.network import masks, precision
from transformer.objectives import cross_entropy

ROWS, LENGTH, WIDTH, VOCAB_SIZE = 8, 8, 4, 11
CAP = 1.5
TRANSFORMS = {
    "soft cap": (precision.SoftCap(CAP), lambda x: CAP * np.tanh(x / CAP)),
    "scale": (precision.Scale(0.25), lambda x: 0.25 * x),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def arguments() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    x_BLD = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    w_VD = rng.normal(size=(VOCAB_SIZE, WIDTH)).astype(np.float32)
    targets_BL = rng.integers(0, VOCAB_SIZE, (ROWS, LENGTH)).astype(np.int32)
    weight_BL = rng.integers(0, 3, (ROWS, LENGTH)).astype(np.float32)
    return x_BLD, w_VD, targets_BL, weight_BL


def nats_in_float64(transform: Any, x_BLD, w_VD, targets_BL, weight_BL) -> float:
    x, w = (np.asarray(a, np.float64) for a in (x_BLD, w_VD))
    logits = transform(x @ w.T)
    log_sum = np.log(np.exp(logits).sum(-1))
    target = np.take_along_axis(logits, np.asarray(targets_BL)[..., None], -1)[..., 0]
    return float(((log_sum - target) * np.asarray(weight_BL)).sum())


def total_and_grads(loss: Any, transform: Any, *args: Any) -> Any:
    def total(x_BLD, w_VD, *targets):
        table = precision.Unembedding(w_VD, transform)
        return 3.0 * loss(x_BLD, table, *targets).total

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*args)


LOSSES = {
    "fused": partial(cross_entropy.fused_cross_entropy, chunks=2),
    "chunked": partial(
        cross_entropy.chunked_loss, cross_entropy.cross_entropy, chunks=2
    ),
    "masked": partial(cross_entropy.masked_cross_entropy, count=LENGTH),
}


@every_transform
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_apply_the_transform(loss: str, name: str) -> None:
    """Gradients as by finite differences of the formula in float64."""
    transform, formula = TRANSFORMS[name]
    x_BLD, w_VD, *targets = arguments()
    total, (x_grad, w_grad) = total_and_grads(
        LOSSES[loss], transform, x_BLD, w_VD, *targets
    )
    expected = partial(nats_in_float64, formula)
    np.testing.assert_allclose(total, 3 * expected(x_BLD, w_VD, *targets), rtol=1e-6)
    rng = np.random.default_rng(5)
    dx, dw = rng.normal(size=x_BLD.shape), rng.normal(size=w_VD.shape)
    small = 1e-4
    above, below = (
        expected(np.asarray(x_BLD) + s * dx, np.asarray(w_VD) + s * dw, *targets)
        for s in (small, -small)
    )
    slope = 3 * (above - below) / (2 * small)
    got = np.sum(np.asarray(x_grad) * dx) + np.sum(np.asarray(w_grad) * dw)
    np.testing.assert_allclose(got, slope, rtol=2e-5)


def test_fused_loss_on_a_mesh_equals_one_device() -> None:
    loss, transform = LOSSES["fused"], TRANSFORMS["soft cap"][0]
    names = ("x_BLD", "w_VD", "targets_BL", "weight_BL")
    batch = dict(zip(names, arguments(), strict=True))
    expected = total_and_grads(loss, transform, *batch.values())
    mesh = axes.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        shardings = axes.shardings(mesh, batch, role="activation")
        sharded = jax.device_put(batch, shardings)
        got = total_and_grads(loss, transform, *(sharded[n] for n in names))
    close(expected, got)


def test_a_part_of_the_vocabulary_keeps_the_transform() -> None:
    x_BLD, w_VD, targets_BL, weight_BL = arguments()
    targets_BL = np.minimum(targets_BL, 4)

    @jax.jit
    def loss(x_BLD: Any, w_VD: Any, *targets: Any) -> Any:
        table = precision.Unembedding(w_VD, precision.SoftCap(CAP))
        assert table.shape == (VOCAB_SIZE, WIDTH)
        return cross_entropy.fused_cross_entropy(x_BLD, table[:5], *targets)

    got = loss(x_BLD, w_VD, targets_BL, weight_BL)
    expected = nats_in_float64(
        TRANSFORMS["soft cap"][1], x_BLD, w_VD[:5], targets_BL, weight_BL
    )
    np.testing.assert_allclose(got.total, expected, rtol=1e-6)


def test_no_one_multiplies_without_the_transform() -> None:
    x_BLD, w_VD, *_ = arguments()
    table: Any = precision.Unembedding(w_VD, precision.SoftCap(CAP))
    with pytest.raises(TypeError):
        jnp.einsum("BLD,VD->BLV", x_BLD, table)
    with pytest.raises(TypeError):
        _ = jnp.asarray(x_BLD) @ table


@pytest.fixture(scope="module")
def capped() -> Any:
    """(net, parameters, prompts of four tokens)."""
    net: Any = language_model("capped").make(depth=1)
    cap = precision.SoftCap(CAP)
    net = net.clone(unembed=decoder.with_transform(net.unembed, cap))
    params = random_params(net)
    ids_BL = jnp.asarray(np.random.default_rng(4).integers(1, 60, (2, 4)), jnp.int32)
    return net, params, ids_BL


def log_p_of_rows(net: Any, params: Any, ids_BL: jax.Array) -> jax.Array:
    readout = net.apply({"params": params}, ids_BL, masks.single_document(6))
    x_BLD, table = readout
    logits_BLV = CAP * jnp.tanh(x_BLD @ table.w_VD.T / CAP)
    close(logits_BLV, decoder.logits(readout))
    log_p_BLV = jax.nn.log_softmax(logits_BLV)[:, :-1]
    return jnp.take_along_axis(log_p_BLV, ids_BL[:, 1:, None], -1)[:, 3:, 0]


def test_decoding_samples_from_capped_logits(capped: Any) -> None:
    """The state's logits, after the prompt and after a step."""
    net, params, ids_BL = capped
    fns = decoding.decode_fns(net, jnp.float32)

    @jax.jit
    def logits(ids_BL: jax.Array) -> jax.Array:
        x_BLD, table = net.apply(
            {"params": params}, ids_BL, masks.single_document(ids_BL.shape[1])
        )
        return CAP * jnp.tanh((x_BLD @ table.w_VD.T)[:, -1] / CAP)

    state = decoding.prefill(
        fns, params, ids_BL, jnp.full(2, 4), jax.random.key(0), new_tokens=1
    )
    close(logits(ids_BL), state.logits_BV)
    state = decoding.decode(fns, params, state, choose=logit_filters.greedy, tokens=1)
    close(logits(state.ids_BL), state.logits_BV)


def test_beam_search_scores_capped_logits(capped: Any) -> None:
    net, params, ids_BL = capped
    fns = decoding.decode_fns(net, jnp.float32)
    found = beam_search.beam_search(
        fns,
        params,
        ids_BL,
        jnp.full(2, 4),
        beam_size=1,
        new_tokens=2,
        end=0,
        length_penalty=0.0,
    )
    rows = jnp.concatenate([ids_BL, found.ids_BIL[:, 0]], axis=1)
    is_real = np.arange(2)[None] < np.asarray(found.length_BI)
    expected = (log_p_of_rows(net, params, rows) * is_real).sum(-1)
    close(expected, found.score_BI[:, 0])
