"""Records on disk, lines on the terminal, a plot, and what is left after a kill."""

import json
import math
import types

import jax
import numpy as np
import pytest
import tiny_experiment

from transformer.objectives.loss import Loss
from transformer.training import faults, metrics, step_log, update, workdir


def log(path, first=0):
    return metrics.Log(path, first=first, steps=9)


def test_records_come_back_and_a_torn_line_does_not(tmp_path):
    first = log(tmp_path)
    first.write(1, "train", {"loss": 2.5})
    first.write(1, "held_out", {"loss": 2.75})
    first.close()
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    told = [{**record, "time": 0} for record in metrics.read(tmp_path)]
    assert told == [
        {"step": 1, "kind": "train", "time": 0, "loss": 2.5},
        {"step": 1, "kind": "held_out", "time": 0, "loss": 2.75},
    ]
    assert metrics.read(tmp_path / "nowhere") == []


def test_going_on_drops_what_will_be_written_again(tmp_path):
    first = log(tmp_path)
    for step in range(1, 7):
        first.write(step, "train", {"loss": float(step)})
        if step % 2 == 0:
            first.write(step, "held_out", {"loss": 0.0})
    first.close()
    again = log(tmp_path, first=4)
    again.write(5, "train", {"loss": 50.0})
    again.close()
    told = [(r["step"], r["kind"], r["loss"]) for r in metrics.read(tmp_path)]
    assert told == [
        (1, "train", 1.0),
        (2, "train", 2.0),
        (2, "held_out", 0.0),
        (3, "train", 3.0),
        (4, "train", 4.0),
        (5, "train", 50.0),
    ]


def test_tensorboard_holds_the_same_numbers(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    first = log(tmp_path)
    first.write(3, "train", {"loss": 2.5})
    first.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, events = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    told = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert told == [(3, "train/loss", 2.5)]


def test_lines_where_nobody_watches_and_a_bar_where_someone_does(
    tmp_path, capsys, monkeypatch
):
    piped = log(tmp_path)
    piped.print_line(7, "train", {"loss": 2.34567, "tokens/s": 12345.0})
    piped.close()
    assert capsys.readouterr() == (
        "step      7  train: loss 2.346, tokens/s 12.3k\n",
        "",
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    watched = log(tmp_path)
    watched.print_line(9, "train", {"loss": 2.0, "FLOP/s": 3.2e12})
    watched.print_line(9, "held_out", {"loss": 2.5})
    watched.close()
    said = capsys.readouterr()
    assert "100%" in said.err and "9/9" in said.err and "FLOP/s 3.2T" in said.err
    assert "held_out: loss 2.5" in said.out


def test_the_plot_is_a_picture(tmp_path):
    metrics.plot(tmp_path)
    first = log(tmp_path)
    for step in range(5):
        first.write(step, "train", {"loss": 3.0 - step})
    first.write(4, "held_out", {"loss": 1.0})
    first.close()
    empty = (tmp_path / "loss.png").read_bytes()
    metrics.plot(tmp_path)
    picture = (tmp_path / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > len(empty) > 999


def told(total: float, weight: float = 2.0, norm: float = 3.0) -> update.StepMetrics:
    scalars = jax.tree.map(np.float32, (total, weight))
    return update.StepMetrics(Loss(*scalars, {}), {"a_D": np.float32(norm), "b_D": 4.0})


def test_telling_is_one_step_behind(tmp_path, capsys):
    """And a line is the mean over its steps, by weight."""
    experiment = tiny_experiment.experiment(steps=4)
    teller = step_log.StepLogger(experiment, tmp_path, first=0, every=2)
    teller.log_async(1, told(2.0, 2.0))
    assert metrics.read(tmp_path) == []
    teller.log_async(2, told(9.0, 3.0))
    (record,) = metrics.read(tmp_path)
    assert (record["loss"], record["gradient_norm"]) == (1.0, 5.0)
    teller.close()
    assert [record["loss"] for record in metrics.read(tmp_path)] == [1.0, 3.0]
    assert "step      2  train: loss 2.2," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("total", "norm", "said"),
    [
        (math.nan, 3.0, "got nan; every gradient is finite; last finite loss 1.0000"),
        (math.inf, 3.0, "got inf"),
        (2.0, math.nan, "got 1.0; first bad gradient: a_D; last finite loss 1.0000"),
    ],
)
def test_no_number_is_named(total, norm, said, tmp_path):
    experiment = tiny_experiment.experiment(steps=4)
    teller = step_log.StepLogger(experiment, tmp_path, first=0, every=2)
    teller.log_async(1, told(2.0))
    teller.log_async(2, told(total, norm=norm))
    with pytest.raises(faults.NonFinite, match=f"step 2: .*{said}.* at step 1"):
        teller.flush()
    teller.close()
    assert [record["step"] for record in metrics.read(tmp_path)] == [1]


def test_the_folder_holds_what_was_shown(tmp_path):
    """Text, bytes, an image and a figure; half-written files never bear their name."""
    from matplotlib.figure import Figure

    shown = {
        "text.txt": "é",
        "raw.bin": b"\0",
        "image.png": np.zeros((3, 4)),
        "figure.png": Figure(),
    }
    experiment = types.SimpleNamespace(show=lambda params, key: shown, seed=0)
    assert workdir.finished(tmp_path) is None
    workdir.finish(tmp_path, experiment, {}, 7)
    assert workdir.finished(tmp_path) == 7
    assert (tmp_path / "text.txt").read_text() == "é"
    assert (tmp_path / "raw.bin").read_bytes() == b"\0"
    for name in ("image.png", "figure.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / workdir.FINISHED).read_text()) == {"step": 7}
    assert not list(tmp_path.glob("*.partial"))
