"""Experiments made from a run, an optimizer and two splits."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax
import pytest

from transformer.training.experiment import Experiment, Run


class Split(NamedTuple):
    batch: Any
    batch_size: int = 4
    batches: int = 3


RUN = Run(steps=7, batch_size=2, seed=5)
SPLITS = Split("train"), Split("held out")
FIELDS: Any = {"fingerprint": "none", "init": "init", "loss": "loss", "metrics": dict}


def test_run_optimizer_and_splits_fill_the_fields_of_an_experiment() -> None:
    counted = []

    def optimizer(steps: int) -> optax.GradientTransformation:
        counted.append(steps)
        return optax.identity()

    made = Experiment.from_run(RUN, optimizer, SPLITS, **FIELDS, net="net")
    assert counted == [7]
    assert (made.batch, made.batch_size, made.steps, made.seed) == ("train", 2, 7, 5)
    validation = made.evaluations["validation"]
    assert validation[:4] == ("held out", 4, 3, "loss")
    assert validation.metrics is made.metrics is dict
    assert (made.fingerprint, made.init, made.net) == ("none", "init", "net")


def test_the_validation_loss_may_be_another() -> None:
    options = {**FIELDS, "validation_loss": "exact"}
    made = Experiment.from_run(RUN, lambda steps: optax.identity(), SPLITS, **options)
    assert made.loss == "loss" and made.evaluations["validation"].loss == "exact"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        Experiment.from_run(
            RUN, lambda steps: optax.identity(), SPLITS, **FIELDS, depth=3
        )
