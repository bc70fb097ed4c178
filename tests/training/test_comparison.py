"""Runs side by side: means over seeds, and curves over steps, tokens and FLOP."""

import json
import statistics

import pytest

from transformer.training import comparison, metrics


def write_run(folder, losses, **flags):
    log = metrics.Log(folder, first=0, steps=9)
    for step, loss in enumerate(losses, 1):
        log.write(step, "train", {"loss": loss})
    log.write(len(losses), "validation", {"loss": losses[-1] + 1})
    log.close()
    (folder / "run.json").write_text(json.dumps({"flags": flags}))


def test_mean_and_deviation_over_seeds(tmp_path):
    ends = {(0, 1): 2.0, (1, 1): 2.5, (2, 1): 4.0, (0, 2): 1.0, (1, 2): 1.5, (0, 3): 0}
    for (seed, depth), end in ends.items():
        write_run(tmp_path / f"{seed}-{depth}", [5, end], seed=seed, depth=depth)
    folders = comparison.find_runs(tmp_path)
    assert len(folders) == len(ends)
    table = comparison.seeds_table(folders)
    head, seeds, loss = (line.split("  ") for line in table.splitlines())
    cells = [cell.strip() for cell in head if cell.strip()]
    assert cells == ["--depth=1", "--depth=2"]
    assert [c.strip() for c in seeds if c.strip()] == ["seeds", "3", "2"]
    expected = [
        f"{statistics.fmean(v):.4g} ± {statistics.stdev(v):.2g}"
        for v in ([3.0, 3.5, 5.0], [2.0, 2.5])
    ]
    cells = [cell.strip() for cell in loss if cell.strip()]
    assert cells == ["validation/loss", *expected]
    assert comparison.seeds_table([tmp_path / "0-3"]) == ""


def test_a_folder_stands_for_the_runs_below_it(tmp_path, capsys):
    """As `compare runs/sweep` and `compare runs/sweep/*` name them."""
    for seed in (0, 1):
        write_run(tmp_path / "sweep" / f"seed={seed}", [5, 2], seed=seed)
    (tmp_path / "sweep" / "sweep.png").touch()
    runs = [tmp_path / "sweep" / f"seed={seed}" for seed in (0, 1)]
    assert comparison.runs_at([tmp_path / "sweep"]) == runs
    assert not capsys.readouterr().out
    assert comparison.runs_at(sorted((tmp_path / "sweep").iterdir())) == runs
    assert capsys.readouterr().out == f"left out, files: {tmp_path}/sweep/sweep.png\n"
    missing = tmp_path / "missing"
    assert comparison.runs_at([missing]) == [missing]  # `metrics.table` refuses it.


def test_a_run_again_with_the_same_seed_is_no_other_seed(tmp_path):
    for name in ("first", "again"):
        write_run(tmp_path / name, [5, 2], seed=0, depth=1)
    folders = [tmp_path / "first", tmp_path / "again"]
    assert comparison.seeds_table(folders) == ""
    write_run(tmp_path / "other", [5, 3], seed=1, depth=1)
    table = comparison.seeds_table([*folders, tmp_path / "other"])
    assert table.splitlines()[1].split()[-1] == "2"


def test_costs_add_up_over_starts(tmp_path):
    """10 tokens a step for two steps, then 30."""
    write_run(tmp_path, [3, 2, 1, 0.5])
    assert "tokens" not in comparison.curves(tmp_path)["train"]
    comparison.write_cost(tmp_path, 0, 10, 100.0)
    comparison.write_cost(tmp_path, 1, 10, 100.0)  # Resumed, nothing changed.
    comparison.write_cost(tmp_path, 2, 30, 300.0)
    curves = comparison.curves(tmp_path)
    assert curves["train"]["step"] == ([1, 2, 3, 4], [3, 2, 1, 0.5])
    assert curves["train"]["tokens"][0] == [10, 20, 50, 80]
    assert curves["train"]["FLOP"][0] == [100, 200, 500, 800]
    assert curves["validation"]["tokens"] == ([80], [1.5])
    comparison.plot([tmp_path], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_legs_are_marked_in_every_panel(tmp_path, monkeypatch):
    """The second leg goes on from step 2, after 20 tokens and 200 FLOP."""
    write_run(tmp_path, [3, 2, 1, 0.5])
    comparison.write_cost(tmp_path, 0, 10, 100.0)
    content = {"flags": {}, "legs": [{"from_step": 0}, {"from_step": 2}]}
    (tmp_path / "run.json").write_text(json.dumps(content))
    seen = {}

    def mark(panel, place, **_):
        seen[panel.get_subplotspec().num1] = place

    monkeypatch.setattr("matplotlib.axes.Axes.axvline", mark)
    comparison.plot([tmp_path], tmp_path / "curves.png")
    seconds = comparison.curves(tmp_path)["train"]["seconds"][0][1]
    assert [seen[panel] for panel in range(4)] == [2, 20, seconds, 200]


def test_damaged_record_is_refused_by_its_line(tmp_path):
    write_run(tmp_path, [3, 2])
    good = (tmp_path / "metrics.jsonl").read_bytes()
    timed = b'{"step": %b, "kind": "train", "time": %b, "loss": %b}\n'
    for bad in (
        *(b"\xff\n", b"3\n", b'{"kind": "train"}\n', b'{"step": "1"}\n'),
        *(timed % (b"1", b"1", b'"x"'), timed % (b"1", b"1", b"null")),
        *(timed % (b"-1", b"1", b"1"), timed % (b"9" * 400, b"1", b"1")),
        *(timed % (b"1", b'"noon"', b"1"), b'{"step": 1, "kind": "train"}\n'),
    ):
        (tmp_path / "metrics.jsonl").write_bytes(bad + good)
        with pytest.raises(ValueError, match=r"metrics.jsonl, line 1.*: expected"):
            metrics.read(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(good + b'{"step')
    assert len(metrics.read(tmp_path)) == 3


@pytest.mark.parametrize(
    "name, content",
    [
        ("cost.json", {"starts": [3]}),
        ("cost.json", {"starts": [{"step": "x"}]}),
        ("run.json", {"flags": {}, "legs": 5}),
        ("run.json", {"flags": {}, "legs": [{"from_step": 0}, {}]}),
    ],
)
def test_damaged_files_of_a_run_are_named(name, content, tmp_path):
    write_run(tmp_path, [3, 2])
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}: (starts|legs).*: expected"):
        comparison.plot([tmp_path], tmp_path / "curves.png")
