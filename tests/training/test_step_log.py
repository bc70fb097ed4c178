"""Metrics of the steps, one step behind the device."""

import math

import jax
import numpy as np
import pytest
import tiny_experiment

from transformer.objectives.loss import Loss
from transformer.training import duration, faults, flops, metrics, step_log, update


def step_metrics(total: float, weight: float = 2.0, norm: float = 3.0):
    scalars = jax.tree.map(np.float32, (total, weight))
    norms = {"a_D": np.float32(norm), "b_D": 4.0}
    return update.StepMetrics(Loss(*scalars, {}), norms)


def logger(folder):
    experiment = tiny_experiment.experiment(steps=4)
    return step_log.StepLogger(experiment, folder, first=0, every=2)


def test_records_are_one_step_behind(tmp_path, capsys):
    """A printed line is the mean over its steps, by weight."""
    log = logger(tmp_path)
    log.log_async(1, step_metrics(2.0, 2.0))
    assert metrics.read(tmp_path) == []
    log.log_async(2, step_metrics(9.0, 3.0))
    (record,) = metrics.read(tmp_path)
    assert (record["loss"], record["gradient_norm"]) == (1.0, 5.0)
    log.close()
    assert [record["loss"] for record in metrics.read(tmp_path)] == [1.0, 3.0]
    assert "step      2  train: loss 2.2," in capsys.readouterr().out


def test_a_step_that_scores_no_target_is_told_and_left_out(tmp_path, capsys):
    """It has no gradient, and the mean is that of the other steps."""
    log = logger(tmp_path)
    for step, weight in enumerate((0.0, 2.0, 0.0, 0.0), 1):
        log.log_async(step, step_metrics(weight, weight))
    log.close()
    assert [record["step"] for record in metrics.read(tmp_path)] == [2]
    lines = capsys.readouterr().out.splitlines()
    assert sum("no target is scored: no gradient" in line for line in lines) == 3
    assert [line[:26] for line in lines if "train" in line] == [
        "step      2  train: loss 1"
    ]


def test_speed_is_in_tokens_and_operations(tmp_path, capsys):
    """Their ratio is the operations of a token."""
    log = logger(tmp_path)
    log.log_async(1, step_metrics(2.0))
    log.log_async(2, step_metrics(2.0))
    speeds: dict[str, float] = {}
    log._log.print_line = lambda step, kind, numbers: speeds.update(numbers)
    log.close()
    operations = flops.per_row(tiny_experiment.experiment()) / tiny_experiment.LENGTH
    assert speeds["FLOP/s"] / speeds["tokens/s"] == pytest.approx(operations)


@pytest.mark.parametrize(
    ("total", "norm", "message"),
    [
        (math.nan, 3.0, "got nan; every gradient is finite; last finite loss 1.0000"),
        (math.inf, 3.0, "got inf"),
        (2.0, math.nan, "got 1.0; first bad gradient: a_D; last finite loss 1.0000"),
    ],
    ids=["loss nan", "loss infinite", "gradient nan"],
)
def test_non_finite_number_is_named_and_not_recorded(total, norm, message, tmp_path):
    log = logger(tmp_path)
    log.log_async(1, step_metrics(2.0))
    log.log_async(2, step_metrics(total, norm=norm))
    with pytest.raises(faults.NonFinite, match=f"step 2: .*{message}.* at step 1"):
        log.flush()
    log.close()
    assert [record["step"] for record in metrics.read(tmp_path)] == [1]


def test_a_run_says_before_its_first_step_how_long_it_will_take(tmp_path, capsys):
    """By the rate of a product of this machine; not of a run of a few steps."""
    logger(tmp_path).close()
    assert capsys.readouterr().out == ""
    experiment = tiny_experiment.experiment(steps=100)
    step_log.StepLogger(experiment, tmp_path, first=0, every=2).close()
    printed = capsys.readouterr().out
    assert printed.startswith("between ") and printed.count("\n") == 1
    assert (
        "to the last step, 100, by its matrix products; timed after 6 steps" in printed
    )
    low, high = duration.bounds(10, 1e12)
    assert 0 < 4 * low + 1 == pytest.approx(high)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.4, "4 s"), (39.9, "40 s"), (171, "2 min 50 s"), (12000, "3 h 20 min")],
)
def test_durations_are_short_words(seconds, text):
    assert duration.text(seconds) == text
