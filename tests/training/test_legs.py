"""A run goes on with other flags, and equals one that had them from the start."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
import tiny_experiment

from transformer import axes, main
from transformer.training import checkpoint, loop, metrics, optimizers, workdir
from transformer.training.declaration import fill

INTERVALS = loop.Intervals(log=2, evaluate=10, checkpoint=3)
experiment = fill(
    tiny_experiment.experiment,
    optimizer=partial(optimizers.muon_wsd, warmup_steps=2, decay_fraction=0.5),
)
MESH = axes.make_mesh(devices=jax.devices()[:1])
run = partial(main.run, experiment, mesh=MESH, intervals=INTERVALS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def records(folder):
    """All records but their times."""
    return [{**record, "time": 0} for record in metrics.read(folder)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of 10 steps, a copy of it that goes on to 24, and a run of 24."""
    root = tmp_path_factory.mktemp("legs")
    run(root / "short", steps=10)
    shutil.copytree(root / "short", root / "extended")
    states = run(root / "extended", steps=24), run(root / "whole", steps=24)
    return root, *states


def test_a_run_that_goes_on_equals_one_that_had_its_steps_from_the_start(folders):
    """To the bit: the state, every record, and so every later step."""
    root, extended, whole = folders
    assert_equal(extended, whole)
    assert records(root / "extended") == records(root / "whole")


def test_nothing_of_the_first_leg_is_lost(folders):
    root, *_ = folders
    archive = root / "extended" / "legs" / "1"
    assert records(archive) == records(root / "short")
    assert checkpoint.steps(archive / "checkpoints") == [6, 9, 10]
    for name in ("finished.json", "samples.txt", "results.json"):
        before = (root / "short" / name).read_bytes()
        assert (archive / name).read_bytes() == before


def test_the_record_lists_the_legs(folders):
    root, *_ = folders
    record = workdir.read_record(root / "extended")
    assert record is not None and record["flags"]["steps"] == 24
    ends = [(leg["from_step"], leg["to_step"]) for leg in record["legs"]]
    assert ends == [(0, 10), (5, 24)]
    assert [leg["flags"]["steps"] for leg in record["legs"]] == [10, 24]


def test_the_checkpoint_before_the_decay_is_kept(folders):
    """Beside the newest three: 24, 21, and 20, which was the best when it was saved."""
    root, *_ = folders
    assert checkpoint.steps(root / "extended" / "checkpoints") == [12, 20, 21, 24]


def test_another_learning_rate_goes_on_from_the_newest_step(tmp_path, capsys):
    run(tmp_path, steps=10)
    (tmp_path / "finished.json").unlink()
    run(tmp_path, steps=10, adam_learning_rate=0.005)
    record = workdir.read_record(tmp_path)
    assert record is not None
    assert [leg["from_step"] for leg in record["legs"]] == [0, 10]
    assert "--adam_learning_rate 0.01 -> 0.005" in capsys.readouterr().out


def test_a_schedule_without_a_stable_part_says_that_it_differs(tmp_path, capsys):
    cosine = partial(
        main.run, tiny_experiment.experiment, mesh=MESH, intervals=INTERVALS
    )
    cosine(tmp_path, steps=4)
    state = cosine(tmp_path, steps=6)
    assert int(state.step) == 6
    output = capsys.readouterr().out
    assert "the run differs from one started with as many steps" in output


def test_changed_data_is_refused_or_begins_a_leg(tmp_path, monkeypatch):
    run(tmp_path, steps=4)
    (tmp_path / "finished.json").unlink()
    record = json.loads((tmp_path / "run.json").read_text())
    record["legs"][-1]["data"] = "0123"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"started \(hash 0123\), got other data"):
        run(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == record
    run(tmp_path, accept_changed_data=True)
    after = json.loads((tmp_path / "run.json").read_text())
    assert [leg["data"] for leg in after["legs"]] == ["0123", ""]


def test_fewer_steps_than_were_taken_are_refused(tmp_path):
    """Where the schedule cannot go back."""
    cosine = partial(
        main.run, tiny_experiment.experiment, mesh=MESH, intervals=INTERVALS
    )
    cosine(tmp_path / "cosine", steps=6)
    before = (tmp_path / "cosine" / "run.json").read_bytes()
    with pytest.raises(ValueError, match="--steps: expected at least 6, at which"):
        cosine(tmp_path / "cosine", steps=4)
    assert (tmp_path / "cosine" / "run.json").read_bytes() == before
    assert (tmp_path / "cosine" / "finished.json").exists()


@pytest.mark.slow
def test_a_run_that_goes_back_equals_one_of_so_few_steps(tmp_path):
    run(tmp_path / "back", steps=12)
    assert_equal(run(tmp_path / "back", steps=6), run(tmp_path / "six", steps=6))
