"""Losses of models that are trained together."""

import jax.numpy as jnp
import pytest

from transformer.objectives import joint
from transformer.objectives.loss import Loss


def test_joint_loss_adds_the_totals_and_keeps_one_weight() -> None:
    losses = {
        name: Loss(
            jnp.float32(nats), jnp.float32(4), {"nats": nats, "correct": 2, "tokens": 4}
        )
        for name, nats in (("a", 6.0), ("b", 2.0))
    }
    loss = joint.joint_loss(losses)
    assert float(loss.total) == 8 and float(loss.weight) == 4
    assert joint.joint_metrics(loss) == pytest.approx(
        {"loss": 2, "nats/a": 1.5, "nats/b": 0.5, "accuracy/a": 0.5, "accuracy/b": 0.5}
    )
