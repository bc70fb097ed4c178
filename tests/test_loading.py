"""A run folder in a notebook, the best checkpoint, a profile, a sweep, `compare`."""

import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_experiment

import transformer
from transformer import main, sweep
from transformer.training import checkpoint, loop, metrics, profiling

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(__file__).parents[1]
INTERVALS = loop.Intervals(log=2, evaluate=3, checkpoint=4, profile=range(2, 4))
run = partial(main.run, tiny_experiment.experiment, intervals=INTERVALS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder, state and output of a run of 7 steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(folder, steps=7, width=4)


def test_a_folder_is_loaded_as_it_was_trained(finished, capsys):
    folder, state = finished
    loaded = transformer.load(str(folder))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)
    assert loaded.experiment.fingerprint == "MLP of width 4"
    assert loaded.tokenizer is None and loaded.net is None
    last = [r for r in metrics.read(folder) if r["kind"] == "held_out"][-1]
    assert loaded.evaluate()["held_out"]["loss"] == pytest.approx(last["loss"])
    loaded.generate(prompt="1", new_tokens=2)
    assert "1 2" in capsys.readouterr().out


def test_the_best_checkpoint_is_kept_and_chosen(tmp_path):
    """The learning rate is so high that the loss is lowest after the third step."""
    run(tmp_path, steps=9, learning_rate=3.0)
    held_out = {
        record["step"]: record["loss"]
        for record in metrics.read(tmp_path)
        if record["kind"] == "held_out"
    }
    best = min(held_out, key=held_out.__getitem__)
    assert best != 9
    named = json.loads((tmp_path / "best.json").read_text())
    assert (named["step"], named["loss"]) == (best, held_out[best])
    assert best in checkpoint.steps(tmp_path / "checkpoints")
    for which in ("best", str(best)):
        loaded = transformer.load(tmp_path, checkpoint=which)
        assert int(loaded.state.step) == best
    with pytest.raises(ValueError, match="--checkpoint: expected newest, best or one"):
        transformer.load(tmp_path, checkpoint="5")


def test_a_folder_of_no_module_is_refused(finished, tmp_path):
    folder, _ = finished
    record = json.loads((folder / "run.json").read_text())
    for name in ("", "no.such", "math"):
        (tmp_path / "run.json").write_text(json.dumps({**record, "module": name}))
        with pytest.raises(ValueError, match="expected a module with a function exp"):
            transformer.load(tmp_path)
    with pytest.raises(ValueError, match="expected the folder of a run, got none"):
        transformer.load(tmp_path / "none")


def test_a_profile_names_operations(finished):
    folder, _ = finished
    (trace,) = (folder / "profile").rglob("*.xplane.pb")
    operations = profiling.slowest_operations(trace)
    assert 0 < len(operations) <= 10
    seconds = [seconds for _, seconds in operations]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] > 0
    assert not any("::" in name or name.startswith("$") for name, _ in operations)


def test_a_profile_counts_operations_of_every_thread(tmp_path):
    """Those that do not wait for each other run on threads of a pool."""

    @jax.jit
    def layers(x, w):
        rows = [x + number for number in range(8)]
        for _ in range(4):
            rows = [jnp.tanh(row @ w) for row in rows]
        return rows

    ones = jnp.ones((512, 512))
    jax.block_until_ready(layers(ones, ones))
    profiler = profiling.Profiler(tmp_path, range(1, 2))
    profiler.begin_step(1)
    start = time.perf_counter()
    results = jax.block_until_ready(layers(ones, ones))
    seconds = time.perf_counter() - start
    profiler.end_step(1, results)
    (trace,) = tmp_path.rglob("*.xplane.pb")
    shown = sum(each for _, each in profiling.slowest_operations(trace))
    assert shown > seconds / 4


@pytest.mark.parametrize("text", ["5", "0:3", "4:3", "a:b", "1:2:3", "-1:2"])
def test_steps_of_no_profile_are_refused(text):
    with pytest.raises(ValueError, match="--profile: expected the first and the last"):
        profiling.parse_steps(text)


def test_a_sweep_is_every_combination():
    argv = ["--learning_rate=0.1,0.2", "--seed=0,1", "--steps=2", "--workdir=a"]
    runs = sweep.expand(argv, tiny_experiment.experiment)
    assert list(runs) == [
        f"learning_rate={rate},seed={seed}" for rate in (0.1, 0.2) for seed in (0, 1)
    ]
    assert runs["learning_rate=0.2,seed=0"] == [
        "--steps=2",
        "--workdir=a",
        "--learning_rate=0.2",
        "--seed=0",
    ]
    with pytest.raises(ValueError, match="sweep: expected a flag with several values"):
        sweep.expand(["--steps=2"], tiny_experiment.experiment)


def test_a_sweep_checks_all_flags_first(tmp_path, capsys, monkeypatch):
    argv = ["sweep", "--learning_rate=0.1,0", f"--workdir={tmp_path}"]
    refused = commands.refusal(argv, capsys, monkeypatch)
    assert "--learning_rate: expected a number in (0, 10], got '0'" in refused
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_trains_and_compares(tmp_path):
    """In processes of their own; then `compare` of the same folders."""
    line = [sys.executable, "-m", "tiny_experiment", "sweep", "--steps=2"]
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    options = {"capture_output": True, "text": True, "cwd": tmp_path}
    options["env"] = {**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    swept = subprocess.run([*line, "--seed=0,1", "--noplatform_tuning"], **options)
    assert swept.returncode == 0, swept.stderr
    root = tmp_path / "runs" / "tiny_experiment-sweep"
    losses = [
        metrics.last_values(root / f"seed={seed}")["held_out/loss"] for seed in (0, 1)
    ]
    mean = f"{np.mean(losses):.4g} ± {np.std(losses, ddof=1):.2g}"
    assert mean in swept.stdout and mean in (root / "sweep.txt").read_text()
    assert (root / "sweep.png").exists()
    compared = subprocess.run(
        [sys.executable, "-m", "transformer", "compare"], **options
    )
    assert compared.returncode == 0, compared.stderr
    assert mean in compared.stdout and (tmp_path / "compare.png").exists()
    assert re.search(r"^--seed +0 +1$", compared.stdout, re.M)
