"""Router losses against their formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from cases import LENGTH, ROWS, close

from transformer.objectives import load_balancing

EXPERTS = 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, LENGTH, EXPERTS)).astype(np.float32)
WEIGHT = RNG.integers(0, 2, (ROWS, LENGTH)).astype(np.float32)

load_balancing_loss = jax.jit(load_balancing.load_balancing_loss)
router_z_loss = jax.jit(load_balancing.router_z_loss)


def top_k(k: int) -> np.ndarray:
    """1 where a token chose the expert, by its k largest logits: (B, L, E)."""
    rank = np.argsort(np.argsort(-LOGITS, axis=-1), axis=-1)
    return (rank < k).astype(np.float32)


def test_balance_loss_is_one_at_uniform_load_and_the_experts_at_one_expert() -> None:
    """Every token to another expert in turn: f = p = 1 / E. All to one: E."""
    turn = np.broadcast_to(np.arange(LENGTH) % EXPERTS, (ROWS, LENGTH))
    ones = np.ones((ROWS, LENGTH))
    for sharpness in (0.0, 3.0):
        one_hot = np.eye(EXPERTS)[turn]
        loss = load_balancing_loss(sharpness * one_hot, one_hot, ones)
        assert float(loss.total) / float(loss.weight) == pytest.approx(1.0)
    same = np.eye(EXPERTS)[0 * turn]
    loss = load_balancing_loss(100 * same, same, ones)
    assert float(loss.total) / float(loss.weight) == pytest.approx(EXPERTS)
    loss = load_balancing_loss(LOGITS, top_k(2), ones)
    assert float(loss.total) / float(loss.weight) > 1.0


def test_router_losses_equal_the_formulas_of_switch_and_st_moe() -> None:
    logits = np.asarray(LOGITS, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = 0.0
    for row in range(ROWS):
        real = WEIGHT[row] > 0
        f = np.bincount(p[row][real].argmax(-1), minlength=EXPERTS) / real.sum()
        expected += real.sum() * EXPERTS * (f * p[row][real].mean(0)).sum()
    loss = load_balancing_loss(LOGITS, top_k(1), WEIGHT)
    close((expected, WEIGHT.sum()), (loss.total, loss.weight))
    z_loss = router_z_loss(LOGITS, WEIGHT)
    squares = np.log(np.exp(logits).sum(-1)) ** 2 * WEIGHT
    close((squares.sum(), WEIGHT.sum()), (z_loss.total, z_loss.weight))


def test_balance_loss_adds_over_rows_and_ignores_padding() -> None:
    chosen = top_k(2)
    full = load_balancing_loss(LOGITS, chosen, WEIGHT)
    rows = [
        load_balancing_loss(LOGITS[i : i + 1], chosen[i : i + 1], WEIGHT[i : i + 1])
        for i in range(ROWS)
    ]
    close(full, jax.tree.map(lambda *parts: sum(map(float, parts)), *rows))
    other = np.where(WEIGHT[..., None] > 0, chosen, 1 - chosen)
    close(full, load_balancing_loss(LOGITS, other, WEIGHT))
    empty = load_balancing_loss(LOGITS, chosen, 0 * WEIGHT)
    assert float(empty.total) == 0 == float(empty.weight)


def test_router_losses_sum_over_layers() -> None:
    """The total over layers; the fractions as means over layers, times the weight."""
    kept = 1.0, 0.5
    layers = [
        {
            "logits_BLE": scale * LOGITS,
            "chosen_BLE": top_k(2),
            "kept_BL": np.full((ROWS, LENGTH), kept[i]),
        }
        for i, scale in enumerate((1.0, 2.0))
    ]
    router_losses = jax.jit(
        partial(load_balancing.router_losses, load_coefficient=0.5, z_coefficient=0.25)
    )
    loss = router_losses(layers, WEIGHT)
    balance = [
        float(load_balancing_loss(a["logits_BLE"], a["chosen_BLE"], WEIGHT).total)
        for a in layers
    ]
    z = [float(router_z_loss(a["logits_BLE"], WEIGHT).total) for a in layers]
    total = sum(0.5 * a + 0.25 * b for a, b in zip(balance, z, strict=True))
    sums = {
        "load_balance_loss": sum(balance) / 2,
        "dispatched_fraction": 0.75 * WEIGHT.sum(),
    }
    close((total, WEIGHT.sum(), sums), tuple(loss))


def test_router_outputs_are_in_numeric_order_of_layers() -> None:
    """layers_10 after layers_9; unrolled as scanned."""

    def layer(i: int) -> Any:
        logits_BLE = np.full((2, 3, 4), 1.0 * i)
        kept_BL = logits_BLE[..., 0]
        names = {"logits_BLE": logits_BLE, "chosen_BLE": logits_BLE, "kept_BL": kept_BL}
        return {"mlp": {name: (a,) for name, a in names.items()}}

    unrolled = {"stack": {f"layers_{i}": layer(i) for i in range(11)}}
    outputs = list(load_balancing.router_outputs(unrolled))
    assert [float(a["logits_BLE"].mean()) for a in outputs] == list(range(11))
    assert {a["kept_BL"].shape for a in outputs} == {(2, 3)}
    stacked = jax.tree.map(lambda *a: np.stack(a), *unrolled["stack"].values())
    scanned = {"stack": {"layers": {"block": stacked}}}
    close(outputs, list(load_balancing.router_outputs(scanned)))


def test_expert_token_counts_are_those_of_the_weighted_ids() -> None:
    ids = RNG.integers(0, 5, (ROWS, LENGTH)).astype(np.int32)
    layers = [{"chosen_BLE": top_k(2)}, {"chosen_BLE": top_k(1)}]
    batch = {"ids_BL": ids, "weight_BL": WEIGHT}
    got = jax.jit(partial(load_balancing.expert_token_counts, vocab_size=5))(
        layers, batch
    )
    expected = np.zeros((2, EXPERTS, 5))
    for n, outputs in enumerate(layers):
        chosen = outputs["chosen_BLE"] * WEIGHT[..., None]
        for row, place in np.ndindex(ROWS, LENGTH):
            expected[n, :, ids[row, place]] += chosen[row, place]
    np.testing.assert_array_equal(got, expected)
