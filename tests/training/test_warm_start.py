"""Runs that start from another one, train a part, and average their parameters."""

import inspect
from functools import partial

import commands
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_experiment

import transformer
from transformer import command, main
from transformer.training import loop, optimizers, warm_start, workdir

INTERVALS = loop.Intervals(log=2, evaluate=4, checkpoint=2)
run = partial(main.run, tiny_experiment.experiment, intervals=INTERVALS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Folder and state of a run of 4 steps and width 4."""
    folder = tmp_path_factory.mktemp("source") / "run"
    return folder, run(folder, steps=4, width=4)


def test_a_run_starts_from_the_parameters_of_another(source, tmp_path, capsys):
    """Of its width too, which need not be given; the optimizer is new."""
    folder, state = source
    experiment = tiny_experiment.experiment(width=4, init_from=folder)
    mesh = main.launch.parse_mesh("")
    with jax.set_mesh(mesh):
        first = loop.first_state(experiment, mesh)
    assert_equal(first.params, state.params)
    assert int(first.step) == 0
    fresh = tiny_experiment.experiment(width=4).optimizer.init(state.params)
    assert_equal(first.optimizer_state, fresh)
    run(tmp_path / "run", steps=2, init_from=folder)
    assert "4 of 4 parameters taken" in capsys.readouterr().out
    record = workdir.read_record(tmp_path / "run")
    assert record is not None
    assert record["flags"]["width"] == 4
    assert record["flags"]["init_from"] == str(folder)


def test_parameters_of_another_run_are_evaluated_where_no_run_has_begun(
    source, tmp_path, capsys, monkeypatch
):
    """All of them; nothing is written, and a report needs a run."""
    folder, _ = source
    assert commands.exit_status(["evaluate", f"--workdir={folder}"], monkeypatch) == 0
    expected = capsys.readouterr().out.splitlines()[1:]
    argv = [f"--workdir={tmp_path / 'new'}", f"--init_from={folder}"]
    assert commands.exit_status(["evaluate", *argv], monkeypatch) == 0
    assert capsys.readouterr().out.splitlines()[1:] == expected != []
    line = commands.refusal(["report", *argv], capsys, monkeypatch)
    assert "expected the folder of a run, got none" in line
    line = commands.refusal(["export", *argv], capsys, monkeypatch)
    assert "verb: expected one of train, evaluate, report, benchmark, sweep, " in line
    wide = tiny_experiment.experiment(width=5, init_from=folder)
    abstract = jax.eval_shape(lambda: wide.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="expected the parameters of this model"):
        wide.warm_start.load(abstract)
    assert not (tmp_path / "new").exists()


def test_a_part_of_no_parameters_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--init_partial: expected --init_from beside"):
        run(tmp_path / "run", init_partial=True)
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_listed_and_refused_or_left(source, tmp_path, capsys):
    """From shapes alone, so that a refused run leaves no folder."""
    folder, state = source
    wide = {"width": 5, "steps": 1, "init_from": folder}
    for width in (5, 4):
        loaded = {**state.params, "other": {"w_DF": np.ones((2, width))}}
        found = warm_start.match(state.params, loaded)
        assert found.same == set(state.params)
        assert found.differences == ("other/w_DF: left over",)
    with pytest.raises(ValueError) as refused:
        run(tmp_path / "run", **wide)
    for part in (
        "4 that differ",
        "readout_VD: expected float32[17, 5], got float32[17, 4]",
        "--init_partial takes the other 0",
    ):
        assert part in str(refused.value)
    assert not (tmp_path / "run").exists()
    capsys.readouterr()
    run(tmp_path / "run", **wide, init_partial=True)
    assert capsys.readouterr().out.count("not taken") == 4


def test_leaves_that_fit_are_taken_and_others_left(source):
    folder, state = source
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    model = {**zeros, "w_up_DF": jnp.zeros((4, 7)), "new_D": jnp.zeros(3)}
    merged = warm_start.WarmStart(folder, True).apply(model)
    for name in ("embedding_VD", "w_down_FD", "readout_VD"):
        np.testing.assert_array_equal(merged[name], state.params[name])
    assert merged["w_up_DF"].shape == (4, 7) and not merged["w_up_DF"].any()
    assert not merged["new_D"].any()


def test_a_tokenizer_is_not_written_into_the_run_that_is_started_from(source):
    """Where that one has none."""
    folder, _ = source
    before = sorted(folder.iterdir())
    made = []

    def experiment(*, workdir=None, init_from=None):
        made.append(workdir)

    command.make_experiment(
        experiment, {"workdir": None, "init_from": folder}, folder / "new"
    )
    (folder / "tokenizer.json").write_text("{}")
    command.make_experiment(
        experiment, {"workdir": None, "init_from": folder}, folder / "new"
    )
    (folder / "tokenizer.json").unlink()
    assert made == [None, folder] and sorted(folder.iterdir()) == before


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--init_from: expected a run folder, got"):
        run(tmp_path / "run", init_from=tmp_path / "none")
    assert not (tmp_path / "run").exists()


def test_frozen_parameters_stay(source, tmp_path):
    folder, state = source
    frozen = run(tmp_path, steps=3, init_from=folder, freeze="^w_|embedding")
    moved = {
        name: bool((leaf != state.params[name]).any())
        for name, leaf in frozen.params.items()
    }
    expected = dict.fromkeys(moved, False) | {"readout_VD": True}
    assert moved == expected


@pytest.mark.parametrize("freeze", ["attention", "(", "^$"])
def test_a_pattern_of_no_parameter_is_refused(freeze, tmp_path):
    with pytest.raises(ValueError, match="--freeze: expected a regular expression"):
        run(tmp_path / "run", freeze=freeze)
    assert not (tmp_path / "run").exists()


def test_average_is_the_sum_written_out():
    """In float64 numpy; it is the average that is evaluated and generated from."""
    decay, rate = 0.9, 0.5
    pair = optimizers.wrap(optax.sgd(rate), ema_decay=decay)
    params = {"w_D": jnp.float32([1.0, -2.0])}
    state, average, value = pair.init(params), np.array([1.0, -2.0]), params["w_D"]
    exact = np.asarray(value, np.float64)
    for step in range(30):
        gradient = {"w_D": jnp.float32([0.1 * step, 1.0])}
        change, state = pair.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        exact = exact - rate * np.array([0.1 * step, 1.0])
        now = min(decay, (1 + step) / (10 + step))
        average = now * average + (1 - now) * exact
    found = optimizers.average_of(state)
    np.testing.assert_allclose(found["w_D"], average, rtol=1e-5)
    assert optimizers.average_of(pair.init(params).inner) is None


def test_a_run_evaluates_its_average_and_loads_it(tmp_path, capsys):
    state = run(tmp_path, steps=4, ema_decay=0.5)
    output = capsys.readouterr().out
    assert "  held_out: loss" in output and "  held_out_ema: loss" in output
    loaded = transformer.load(tmp_path)
    assert_equal(loaded.params, optimizers.average_of(state.optimizer_state))
    assert_equal(loaded.state.params, state.params)


def test_the_report_is_of_the_average(tmp_path):
    """As are the verbs `report` and `generate`."""
    seen = []

    def report(params, key):
        seen.append(params)
        return {}

    def make(**arguments):
        return tiny_experiment.experiment(**arguments)._replace(report=report)

    make.__signature__ = inspect.signature(tiny_experiment.experiment)
    state = main.run(make, tmp_path, intervals=INTERVALS, steps=3, ema_decay=0.5)
    assert_equal(seen[0], optimizers.average_of(state.optimizer_state))
