"""Trained models for other experiments: trained once, loaded afterwards."""

import commands
import jax
import numpy as np
import pytest
import tiny_experiment

from transformer import axes, flags, main
from transformer.training import metrics, pretrained, workdir


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The folder of a finished run of width 4, on the device that loads it."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    mesh = axes.make_mesh(devices=jax.devices()[:1])
    main.run(tiny_experiment.experiment, folder, mesh=mesh, width=4, steps=3)
    return folder


def load(folder, version="1"):
    return pretrained.load_or_train(tiny_experiment.experiment, folder, version=version)


def test_run_is_loaded_with_its_flags(run_folder):
    before = commands.contents(run_folder)
    experiment, params = load(run_folder)
    assert experiment.fingerprint == "MLP of width 4" and experiment.steps == 3
    assert isinstance(params["w_up_DF"], np.ndarray)
    assert params["w_up_DF"].shape == (4, 16)
    assert commands.contents(run_folder) == before


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a run of tiny_experiment, got none"):
        load(tmp_path)


def test_default_run_is_trained_once(tmp_path, monkeypatch, capsys):
    """And once more when its version changes; it is the run of the default flags."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = "training tiny_experiment, once\n"
    experiment, params = load(None)
    assert message in capsys.readouterr().out
    _, again = load(None)
    assert message not in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, again, params)
    (record,) = (tmp_path / "cache").rglob("run.json")
    defaults = flags.defaults(tiny_experiment.experiment)
    del defaults["workdir"]
    assert workdir.read_record(record.parent)["flags"] == defaults
    assert experiment.fingerprint == tiny_experiment.experiment().fingerprint
    assert metrics.read(record.parent)[-1]["step"] == defaults["steps"]
    monkeypatch.setattr(pretrained.loop, "train", lambda *a, **k: print("trained"))
    with pytest.raises(ValueError, match="expected an intact checkpoint"):
        load(None, version="2")
