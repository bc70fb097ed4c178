"""A run whose folder is in an object store equals the same run on a local disk."""

import json
import os
import signal
from functools import partial

import commands
import fake_store
import jax
import numpy as np
import pytest
import tiny_experiment

import transformer
from transformer import __main__ as program
from transformer import axes, checks, leases, main, storage
from transformer.training import checkpoint, loop, metrics, optimizers, workdir
from transformer.training.declaration import fill

INTERVALS = loop.Intervals(log=2, evaluate=6, checkpoint=4)
OPTIMIZER = partial(optimizers.muon_wsd, warmup_steps=2, decay_fraction=0.5)
experiment = fill(tiny_experiment.experiment, optimizer=OPTIMIZER)
MESH = axes.make_mesh(devices=jax.devices()[:1])
run = partial(main.run, experiment, mesh=MESH, intervals=INTERVALS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def records(folder):
    """All records but their times."""
    return [{**record, "time": 0} for record in metrics.read(folder)]


def names(folder):
    """Files below a folder but those that are called after a time or a hash, and the
    lock."""
    found = (file.relative_to(folder).as_posix() for file in storage.files(folder))
    varied = ("tensorboard", "lock", "/d/", "commit_success")
    return [name for name in found if not any(word in name for word in varied)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same run on disk and in a store: 6 steps, then 12 as another leg."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        fake_store.install(root, patch)
        local, remote = root / "local", checks.parse_path("gs://bucket/runs/a")
        for folder in (local, remote):
            run(str(folder), steps=6)
        yield local, remote, *(run(str(f), steps=12) for f in (local, remote))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store."""
    fake_store.install(tmp_path / "store", monkeypatch)
    return checks.parse_path("gs://bucket")


def test_a_run_in_a_store_equals_one_on_disk(folders):
    """To the bit: state and records, after legs."""
    local, remote, on_disk, in_store = folders
    assert_equal(on_disk, in_store)
    assert records(local) == records(remote)
    assert records(local / "legs/1") == records(remote / "legs" / "1")


def test_its_folder_has_the_same_files(folders):
    local, remote, *_ = folders
    assert names(local) == names(remote)
    for part in ("checkpoints", "legs/1/checkpoints"):
        assert checkpoint.steps(local / part) == checkpoint.steps(remote / part)
    assert workdir.read_record(local) == workdir.read_record(remote)


def test_loading_evaluating_and_generating_read_the_store(folders, capsys):
    local, remote, *_ = folders
    load = partial(transformer.load, optimizer=OPTIMIZER)
    a, b = load(str(local)), load(str(remote))
    assert_equal(a.params, b.params)
    assert a.evaluate() == b.evaluate()
    b.generate(prompt="x", new_tokens=2)
    assert "x 2" in capsys.readouterr().out


def test_runs_of_both_are_compared(folders, tmp_path, monkeypatch, capsys):
    local, remote, *_ = folders
    monkeypatch.chdir(tmp_path)
    program.compare([str(local), str(remote)])
    lines = capsys.readouterr().out.splitlines()
    assert str(remote) in lines[0] and (tmp_path / "compare.png").exists()
    row = next(line for line in lines if line.startswith("train/loss")).split()
    assert row[1] == row[2]


def argv(*more):
    """Of a run in the store, with a checkpoint every third step."""
    return ["--workdir=gs://bucket/runs/b", "--checkpoint_every=3", *more]


def test_a_killed_run_goes_on_and_equals_one_that_was_not(store, tmp_path):
    """Its records too, and with the lock that it left."""
    env = {"FAKE_STORE": str(tmp_path / "store")}
    (tmp_path / "first.txt").touch()
    first = commands.Child(tmp_path / "first.txt", *argv("--pause=0.1"), env=env)
    first.await_true(lambda: checkpoint.steps(store / "runs/b/checkpoints")[-1:] > [3])
    first.signal(signal.SIGKILL)
    assert first.status() == -signal.SIGKILL
    second = commands.Child(tmp_path / "second.txt", *argv(), env=env)
    assert second.status() == 0, second.text
    assert "resuming from step" in second.text and "sign of life" not in second.text
    every_third = loop.Intervals(checkpoint=3)
    make, place = tiny_experiment.experiment, tmp_path / "whole"
    main.run(make, place, mesh=MESH, intervals=every_third)
    remote = tmp_path / "store/bucket/runs/b"
    for kind in ("train", "held_out"):
        assert commands.losses(remote, kind) == commands.losses(
            tmp_path / "whole", kind
        )


def test_a_stopped_run_saves_and_releases_its_lock(store, tmp_path):
    env = {"FAKE_STORE": str(tmp_path / "store")}
    child = commands.Child(tmp_path / "one.txt", *argv("--pause=0.1"), env=env)
    child.await_text("step      ")
    child.signal(signal.SIGTERM)
    assert child.status() == 143 and "the last step is saved" in child.text
    assert json.loads((store / "runs/b/lock/000001.json").read_bytes())["released"]
    saved = checkpoint.steps(store / "runs/b/checkpoints")[-1]
    assert f"{commands.losses(tmp_path / 'store/bucket/runs/b')[-1][0]}" == str(saved)


def test_only_process_0_writes_the_records(store, tmp_path):
    """And each its part of the arrays: both are needed to restore on one device."""
    env = {"FAKE_STORE": str(tmp_path / "store")}
    more = argv("--mesh=fsdp:4", "--steps=4")[1:]
    place = "gs://bucket/runs/two"
    two = commands.start_processes(
        tmp_path / "two", *more, env=env, workdirs=[place, place]
    )
    assert [child.status() for child in two] == [0, 0], [c.text for c in two]
    first, second = (
        fake_store.requests(tmp_path / "store", child._process.pid, "put")
        for child in two
    )
    assert "bucket/runs/two/metrics.jsonl" in first
    assert all("/checkpoints/" in name for name in second), second
    parts = {p.parent.name for p in (store / "runs/two/checkpoints").rglob("manifest*")}
    assert {"ocdbt.process_0", "ocdbt.process_1"} <= parts
    loaded = transformer.load(place)
    assert int(loaded.state.step) == 4


def test_a_second_run_is_refused_and_told_of_the_first(store, monkeypatch, capsys):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    folder = store / "runs" / "c"
    with workdir.lock(folder):
        with pytest.raises(ValueError, match=f"got process {os.getpid()} on "):
            run(str(folder), steps=6)
    assert not (folder / "run.json").exists()


REFUSED = {
    "s3://bucket/runs/a": "or gs://bucket/folder, got s3://bucket/runs/a",
    "gs://bucket": "or gs://bucket/folder, got gs://bucket",
    "gs:/bucket/a": "or gs://bucket/folder, got gs:/bucket/a",
    "ftp://host/a": "expected a path of a file system, or of a bucket at gs://",
    "gs://absent/runs/a": "--workdir: expected a bucket that exists, got gs://absent",
}


@pytest.mark.parametrize("place", REFUSED)
def test_places_where_no_run_can_be_are_refused(place, store, capsys, monkeypatch):
    line = commands.refusal([f"--workdir={place}"], capsys, monkeypatch)
    assert "--workdir" in line and REFUSED[place] in line


def test_a_refusal_of_the_store_is_one_line(store, monkeypatch, capsys):
    """As of credentials that may not read the bucket."""

    def refuse(*args, **options):
        raise OSError("Forbidden: https://storage/b/bucket\nno access")

    monkeypatch.setattr(fake_store.FakeStore, "info", refuse)
    line = commands.refusal(["--workdir=gs://bucket/a"], capsys, monkeypatch)
    assert "expected access to a bucket, got gs://bucket/a: Forbidden" in line
