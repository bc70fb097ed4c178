"""Models that are trained together, on the same targets, without common parameters."""

from __future__ import annotations

from collections.abc import Mapping

from transformer.objectives.loss import Loss


def joint_loss(losses: Mapping[str, Loss]) -> Loss:
    """The sum of the cross-entropies of models by name, with the weight of one; sums:
    nats/NAME and correct/NAME."""
    sums = {
        f"{key}/{name}": loss.sums[key]
        for name, loss in losses.items()
        for key in ("nats", "correct")
    }
    first, *others = losses.values()
    total = sum((loss.total for loss in others), start=first.total)
    return Loss(total, first.weight, sums)


def joint_metrics(loss: Loss) -> dict[str, float]:
    """Metrics of a `joint_loss`: the sum, and nats/NAME and accuracy/NAME per token."""
    weight = float(loss.weight)
    metrics = {"loss": float(loss.total) / weight}
    for key, value in loss.sums.items():
        name = key.replace("correct/", "accuracy/")
        metrics[name] = float(value) / weight
    return metrics
