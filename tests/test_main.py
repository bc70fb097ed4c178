"""Command lines and `run`: verbs, and one clear line for bad input."""

import inspect
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import commands
import jax
import numpy as np
import optax
import pytest
import tiny_experiment

from experiments import language_model
from transformer import main
from transformer.generation import text_model
from transformer.training import loop, metrics
from transformer.training.declaration import fill

LANGUAGE_MODEL = SimpleNamespace(
    experiment=language_model.experiment, generate=text_model.generate
)


def test_help_lists_flags_of_experiment_verb_and_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["language_model", "--help"])
    with pytest.raises(SystemExit) as stop:
        main.main(language_model.experiment, generate=text_model.generate)
    output = capsys.readouterr().out
    assert not stop.value.code
    for text in ("Jane Austen", "--depth=int", "--prompt=str", "--mesh=str"):
        assert text in output


BAD_FLAGS = {
    "unknown flag": (["--sequence_lenght=9"], "did you mean --sequence_length?"),
    "wrong type": (
        ["--depth=deep"],
        "--depth: expected a whole number in [1, 128], got 'deep'",
    ),
    "no number": (
        ["--muon_learning_rate=fast"],
        "expected a number in (0, 10], got 'fast'",
    ),
    "no switch": (["--platform_tuning=maybe"], "expected true or false, got 'maybe'"),
    "bad choice": (
        ["--tokenizer=words"],
        "expected one of bpe, characters, bytes, got 'words'",
    ),
    "no value": (["--depth"], "Missing value for flag --depth"),
    "bad verb": (
        ["trian"],
        "expected one of train, evaluate, report, benchmark, sweep, plan, generate;",
    ),
    "late verb": (["--depth=1", "generate"], "expected flags --name=value"),
    "another verb's flag": (
        ["evaluate", "--prompt=x"],
        "--prompt: there is no such flag",
    ),
    "unknown axis": (["--mesh=rows:2"], "got 'rows:2'"),
    "impossible mesh": (["--mesh=tensor:3"], "number of devices, 8; got"),
    "no folder to generate from": (["generate"], "expected the folder of a run"),
    "no folder to evaluate": (["evaluate"], "expected the folder of a run"),
    "missing text": (["--text=/no/such.txt"], "/no/such.txt"),
    "no steps": (
        ["--steps=0"],
        "--steps: expected a whole number in [1, 2147483647], got '0'",
    ),
    "no interval": (
        ["--log_every=0"],
        "--log_every: expected a whole number in [1, 2147483647]",
    ),
    "rows for no mesh": (["--batch_size=9"], "expected a multiple of 8"),
    "sequence longer than the text": (["--sequence_length=100000000"], "100000000"),
    "more rows than the text": (["--batch_size=8000000"], "8000000"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    argv, expected = BAD_FLAGS[case]
    monkeypatch.chdir(tmp_path)
    assert expected in commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)
    assert commands.contents(tmp_path) == {}


BAD_TEXTS = {
    "empty": (b"", "text.txt"),
    "not UTF-8": (b"\xff\xfe\x00h" * 999, "UTF-8"),
    "too short for one batch": (b"It is a truth.\n\nSo it is.", "expected"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    content, expected = BAD_TEXTS[case]
    (tmp_path / "text.txt").write_bytes(content)
    argv = [f"--text={tmp_path / 'text.txt'}", f"--workdir={tmp_path / 'run'}"]
    argv += ["--tokenizer=bytes"]
    assert expected in commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)
    assert commands.contents(tmp_path).keys() == {"text.txt"}


LEG = {"from_step": 0, "to_step": 20, "decay_step": None, "data": "", "flags": {}}
RECORD = json.dumps(
    {
        "layout": 3,
        "experiment": "tiny_experiment",
        "fingerprint": "",
        "flags": {"width": 8},
        "legs": [LEG],
    }
)


@pytest.fixture
def run_folder(tmp_path):
    """A folder in which a run of width 8 began."""
    (tmp_path / "run.json").write_text(RECORD)
    return tmp_path


BAD_FOLDERS = {
    "another experiment": (
        RECORD.replace("tiny_experiment", "austen"),
        "expected a folder of experiment tiny_experiment, got one of austen",
    ),
    "older layout": (
        '{"experiment": "tiny_experiment", "flags": {"width": 16}}',
        "expected a run folder of layout 3, got None, of another version",
    ),
    "another flag": (None, "--width: expected 8, which the parameters"),
    "unknown flag": (
        RECORD.replace('"width": 8', '"color": "red"'),
        "got the recorded flags color: the folder is of",
    ),
    "corrupt": ('{"experi', "run.json: expected JSON, got "),
    "no record": ("[1, 2]", "run.json: expected a JSON object, got "),
    "binary": ("\udcff\udcfe", "run.json: expected JSON, got "),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_are_refused_unchanged(case, run_folder, capsys, monkeypatch):
    record, expected = BAD_FOLDERS[case]
    if record is not None:
        content = record.encode(errors="surrogateescape")
        (run_folder / "run.json").write_bytes(content)
    before = commands.contents(run_folder)
    argv = [f"--workdir={run_folder}", "--width=16"]
    assert expected in commands.refusal(argv, capsys, monkeypatch)
    with pytest.raises(ValueError, match=expected):
        main.run(tiny_experiment.experiment, run_folder, width=16)
    assert commands.contents(run_folder) == before


def test_unwritable_folders_are_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    argv = [f"--workdir={tmp_path / 'file' / 'run'}"]
    assert "expected a folder that can be written" in commands.refusal(
        argv, capsys, monkeypatch
    )
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def language_argv(tmp_path_factory):
    """The flags of a tiny language model of a short text."""
    folder = tmp_path_factory.mktemp("language")
    lines = [f"It is a truth that {i} is less than {i + 1}.\n\n" for i in range(400)]
    (folder / "text.txt").write_text("".join(lines))
    flags = "--depth=1 --sequence_length=64 --tokenizer=bytes --batch_size=8 --steps=2"
    paths = [f"--text={folder / 'text.txt'}", f"--workdir={folder / 'run'}"]
    return [*flags.split(), "--dtype=float32", *paths]


def test_every_verb_of_the_language_model(language_argv, capsys, monkeypatch):
    """Train, evaluate, report, generate; a prompt that is too long is refused."""

    def status(*argv):
        return commands.exit_status(argv, monkeypatch, run=LANGUAGE_MODEL)

    def refusal(*argv):
        return commands.refusal(argv, capsys, monkeypatch, run=LANGUAGE_MODEL)

    assert status(*language_argv) == 0
    assert "finished; see" in capsys.readouterr().out
    workdir = language_argv[-1]
    assert status("evaluate", workdir) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    file = Path(workdir.removeprefix("--workdir=")) / "samples.txt"
    samples = file.read_text()
    file.unlink()
    assert status("report", workdir) == 0
    assert file.read_text() == samples
    capsys.readouterr()
    assert status("generate", workdir, "--prompt=It is", "--new_tokens=4") == 0
    assert capsys.readouterr().out.startswith("It is")
    long_prompt = "--prompt=" + "It is a truth. " * 9
    assert "prompt too long: expected at most 64 tokens" in refusal(
        "generate", workdir, long_prompt, "--new_tokens=4"
    )
    assert "--depth: expected 1, which the parameters" in refusal(workdir, "--depth=2")


# `run`

INTERVALS = loop.Intervals(log=2, evaluate=4, checkpoint=2)
FLAGS = {"steps": 6, "width": 4, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Folder and state of a run in Python, and the SIGTERM handlers around it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    before = signal.getsignal(signal.SIGTERM)
    state = main.run(tiny_experiment.experiment, folder, intervals=INTERVALS, **FLAGS)
    handlers = before, signal.getsignal(signal.SIGTERM)
    return SimpleNamespace(folder=folder, state=state, handlers=handlers)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def records(folder):
    """All records but their times."""
    return [{**record, "time": 0} for record in metrics.read(folder)]


def test_run_equals_the_command_line(finished_run, tmp_path, capsys, monkeypatch):
    """Bit for bit: parameters, optimizer state, metrics, record and report."""
    folder, state = finished_run.folder, finished_run.state
    argv = [f"--{name}={value}" for name, value in FLAGS.items()]
    argv += ["--log_every=2", "--evaluate_every=4", "--checkpoint_every=2"]
    assert commands.exit_status([f"--workdir={tmp_path}", *argv], monkeypatch) == 0
    experiment = tiny_experiment.experiment(**FLAGS)
    mesh = main.launch.parse_mesh("")
    with jax.set_mesh(mesh):
        assert_equal(loop.restore_run_state(experiment, tmp_path, mesh), state)
    assert records(tmp_path) == records(folder)
    ours, theirs = (
        json.loads((path / "run.json").read_text()) for path in (folder, tmp_path)
    )
    assert ours["flags"] == theirs["flags"] and ours["flags"]["width"] == 4
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    for name in ("samples.txt", "results.json", "finished.json", "experiment.py"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_second_run_returns_the_state_and_changes_nothing(finished_run):
    folder, state = finished_run.folder, finished_run.state
    before = commands.contents(folder)
    assert_equal(main.run(tiny_experiment.experiment, folder), state)
    assert_equal(main.run(tiny_experiment.experiment, folder, width=4), state)
    assert commands.contents(folder) == before


def test_run_refuses_another_flag_than_recorded(finished_run):
    folder = finished_run.folder
    with pytest.raises(ValueError, match="--width: expected 4, which the parameters"):
        main.run(tiny_experiment.experiment, folder, width=8)
    with pytest.raises(TypeError, match="expected parameters among .*; got wdith"):
        main.run(tiny_experiment.experiment, folder, wdith=4)


def test_run_restores_the_signal_handler(finished_run):
    before, after = finished_run.handlers
    assert after is before


def lion(steps: int, *, lion_rate: float = 1e-3) -> optax.GradientTransformation:
    """Lion.

    Args:
        lion_rate: learning rate.
    """
    return optax.lion(lion_rate)


def test_run_takes_a_slot(tmp_path):
    """Another optimizer, its flag, and the record of it; resumed by the same call."""
    arguments = {"optimizer": lion, "lion_rate": 0.01, "steps": 2}
    state = main.run(tiny_experiment.experiment, tmp_path, **arguments)
    flags = json.loads((tmp_path / "run.json").read_text())["flags"]
    assert flags["lion_rate"] == 0.01 and "learning_rate" not in flags
    assert isinstance(state.optimizer_state[0], optax.ScaleByLionState)
    (tmp_path / "finished.json").unlink()
    again = main.run(tiny_experiment.experiment, tmp_path, optimizer=lion)
    assert_equal(again, state)


def test_another_optimizer_in_an_old_folder_is_refused(
    finished_run, capsys, monkeypatch
):
    folder = finished_run.folder
    message = "the folder is of a run with another optimizer"
    with pytest.raises(ValueError, match=message):
        main.run(tiny_experiment.experiment, folder, optimizer=lion)
    finished = (folder / "finished.json").read_bytes()
    (folder / "finished.json").unlink()
    before = commands.contents(folder)
    other = SimpleNamespace(
        experiment=fill(tiny_experiment.experiment, optimizer=lion),
        generate=tiny_experiment.generate,
    )
    argv = [f"--workdir={folder}"]
    assert message in commands.refusal(argv, capsys, monkeypatch, run=other)
    assert commands.contents(folder) == before
    (folder / "finished.json").write_bytes(finished)


def shout(params, workdir, *, words: str = "a", width: str = "wide") -> None:
    """Print words.

    Args:
        words: to print.
        width: a flag of the experiment's too.
    """
    print(words.upper(), width, workdir.name)


def test_a_verb_of_its_own_has_its_flags(finished_run, capsys, monkeypatch):
    """Its flags are in the help and are taken before the experiment's of that name; a
    verb that the experiment made does not offer is refused by name."""

    def made(**flags):
        return tiny_experiment.experiment(**flags)._replace(verbs={"shout": shout})

    made.__signature__ = inspect.signature(tiny_experiment.experiment)
    made.__wrapped__ = tiny_experiment.experiment
    run = SimpleNamespace(experiment=made, verbs={"shout": shout, "sing": shout})
    argv = ["shout", f"--workdir={finished_run.folder}", "--words=b", "--width=x"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    assert capsys.readouterr().out == "B x run\n"
    assert commands.exit_status(argv[:2], monkeypatch, run=run) == 0
    assert capsys.readouterr().out == "A wide run\n"
    line = commands.refusal(["sing", argv[1]], capsys, monkeypatch, run=run)
    assert "sweep, plan, generate, shout, which" in line and "got sing" in line
    assert commands.exit_status(["--help"], monkeypatch, run=run) in (0, None)
    assert "Flags of the verb shout:\n\n  --words=str" in capsys.readouterr().out
