"""Losses of models that are trained together."""

import jax.numpy as jnp
import pytest

from transformer.objectives import joint
from transformer.objectives.loss import Loss


def test_joint_loss_adds_the_totals_and_keeps_one_weight() -> None:
    def loss_of(nats: float) -> Loss:
        total, weight, correct = map(jnp.float32, (nats, 4, 2))
        sums = {"nats": total, "correct": correct, "tokens": weight}
        return Loss(total, weight, sums)

    losses = {"a": loss_of(6.0), "b": loss_of(2.0)}
    loss = joint.joint_loss(losses)
    assert float(loss.total) == 8 and float(loss.weight) == 4
    assert joint.joint_metrics(loss) == pytest.approx(
        {"loss": 2, "nats/a": 1.5, "nats/b": 0.5, "accuracy/a": 0.5, "accuracy/b": 0.5}
    )
