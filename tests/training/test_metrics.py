"""Metrics of a run: records on disk, lines on the terminal, a plot, a table."""

import json

import pytest

from transformer.training import metrics


def log(path, first=0):
    return metrics.Log(path, first=first, steps=9)


def test_records_are_read_and_a_torn_line_is_skipped(tmp_path):
    first = log(tmp_path)
    first.write(1, "train", {"loss": 2.5})
    first.write(1, "held_out", {"loss": 2.75})
    first.close()
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"step": 2, "kind": "tr')
    records = [{**record, "time": 0} for record in metrics.read(tmp_path)]
    assert records == [
        {"step": 1, "kind": "train", "time": 0, "loss": 2.5},
        {"step": 1, "kind": "held_out", "time": 0, "loss": 2.75},
    ]
    assert metrics.read(tmp_path / "nowhere") == []


def test_resumed_log_drops_the_records_that_it_writes_again(tmp_path):
    first = log(tmp_path)
    for step in range(1, 7):
        first.write(step, "train", {"loss": float(step)})
        if step % 2 == 0:
            first.write(step, "held_out", {"loss": 0.0})
    first.close()
    again = log(tmp_path, first=4)
    again.write(5, "train", {"loss": 50.0})
    again.close()
    records = [(r["step"], r["kind"], r["loss"]) for r in metrics.read(tmp_path)]
    assert records == [
        (1, "train", 1.0),
        (2, "train", 2.0),
        (2, "held_out", 0.0),
        (3, "train", 3.0),
        (4, "train", 4.0),
        (5, "train", 50.0),
    ]


def test_tensorboard_has_the_same_numbers(tmp_path):
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
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(3, "train/loss", 2.5)]


def test_lines_in_a_pipe_and_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    pipe = log(tmp_path)
    pipe.print_line(7, "train", {"loss": 2.34567, "tokens/s": 12345.0})
    pipe.close()
    assert capsys.readouterr() == (
        "step      7  train: loss 2.346, tokens/s 12.3k\n",
        "",
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    terminal = log(tmp_path)
    terminal.print_line(9, "train", {"loss": 2.0, "FLOP/s": 3.2e12})
    terminal.print_line(9, "held_out", {"loss": 2.5})
    terminal.close()
    output = capsys.readouterr()
    assert "100%" in output.err and "9/9" in output.err and "FLOP/s 3.2T" in output.err
    assert "held_out: loss 2.5" in output.out


def test_plot_is_a_picture(tmp_path):
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


TABLE = """\
                   deep    wide
--depth            8       2
--optimizer                adam
step               2       1
train/loss         1.25    2.5
train/tokens       12.3k
held_out/accuracy  0.1235  0.5"""


def test_table_has_last_metrics_and_flags_that_differ(tmp_path, monkeypatch):
    """A column for each run, empty where it has no such metric or flag."""
    runs = {
        "deep": ({"depth": 8, "seed": 0}, [(1, 2.0), (2, 1.25)], 0.123456),
        "wide": ({"depth": 2, "seed": 0, "optimizer": "adam"}, [(1, 2.5)], 0.5),
    }
    for name, (flags, losses, accuracy) in runs.items():
        run = log(tmp_path / name)
        for step, loss in losses:
            numbers = {"loss": loss, "tokens": 12345.0} if step == 2 else {"loss": loss}
            run.write(step, "train", numbers)
        run.write(step, "held_out", {"accuracy": accuracy})
        run.close()
        (tmp_path / name / "run.json").write_text(json.dumps({"flags": flags}))
    monkeypatch.chdir(tmp_path)
    assert metrics.table(["deep", "wide"]) == TABLE
    with pytest.raises(ValueError, match="nowhere: expected a run folder with metrics"):
        metrics.table(["deep", "nowhere"])
