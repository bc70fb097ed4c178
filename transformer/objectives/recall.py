"""The loss of a text with questions in it (`data/text/associative_recall.py`), of
several models at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from transformer.objectives.cross_entropy import cross_entropy
from transformer.objectives.loss import Loss


def recall_loss(
    logits: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    bytes_V: Any,
    *,
    answer_weight: float = 64.0,
) -> Loss:
    """Cross-entropy of the text and answer_weight times that of the answers, summed
    over the models; the weight is the text's tokens times the models.

    logits: (B, L, V) by the model's name. bytes_V: UTF-8 bytes of each token. sums:
    questions, bytes; by model nats/NAME of the text, correct/NAME of the answers.
    """
    targets_BL, row_B = batch["targets_BL"], batch["weight_B"][:, None]
    question_BL = batch["question_BL"] * row_B
    text_BL = batch["text_weight_BL"] * row_B
    bytes_BL = jnp.asarray(bytes_V, jnp.float32)[targets_BL]
    sums = {"questions": question_BL.sum(), "bytes": jnp.sum(bytes_BL * text_BL)}
    total = jnp.zeros(())
    for name, logits_BLV in logits.items():
        text = cross_entropy(logits_BLV, targets_BL, text_BL)
        answers = cross_entropy(logits_BLV, targets_BL, question_BL)
        total += text.total + answer_weight * answers.total
        sums[f"nats/{name}"] = text.total
        sums[f"correct/{name}"] = answers.sums["correct"]
    return Loss(total, len(logits) * text_BL.sum(), sums)


def recall_metrics(loss: Loss) -> dict[str, float]:
    """Metrics of a `recall_loss`: bits_per_byte/NAME and recall_accuracy/NAME."""
    sums = {name: float(value) for name, value in loss.sums.items()}
    metrics = {"loss": float(loss.total) / float(loss.weight)}
    for name in [key.removeprefix("nats/") for key in sums if key.startswith("nats/")]:
        bits = sums[f"nats/{name}"] / math.log(2)
        metrics[f"bits_per_byte/{name}"] = bits / sums["bytes"]
        metrics[f"recall_accuracy/{name}"] = sums[f"correct/{name}"] / sums["questions"]
    return metrics
