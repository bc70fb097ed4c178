"""Command lines: flags from signatures, verbs, and one clear line for bad input."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import commands
import pytest
import tiny_experiment
from absl import flags as absl_flags

from experiments import language_model
from transformer import flags, launch, main


def every_kind(
    *,
    whole: int = 1,
    number: float = 2.0,
    switch: bool = False,
    choice: Literal["left", "right"] = "left",
    folder: Path | None = None,
    limit: int | None = None,
) -> None:
    """What flags can hold.

    Args:
        whole: a number
            of things.
        choice: a side.
    """


def parsed(*argv, defaults=None):
    values = absl_flags.FlagValues()
    flags.define(values, every_kind)
    assert flags.read(values, ["name", *argv]) == ["name"]
    return flags.arguments(values, every_kind, defaults or {})


def test_flags_are_the_signature():
    assert parsed() == {
        "whole": 1,
        "number": 2.0,
        "switch": False,
        "choice": "left",
        "folder": None,
        "limit": None,
    }
    given = parsed("--whole=3", "--switch", "--choice=right", "--folder=a", "--limit=4")
    assert given["folder"] == Path("a")
    assert [given[k] for k in ("whole", "switch", "choice", "limit")] == [
        3,
        True,
        "right",
        4,
    ]
    assert parsed("--noswitch", "--number=1e-3")["number"] == 1e-3


def test_recorded_flags_are_the_defaults():
    assert parsed(defaults={"whole": 9, "folder": "b"})["folder"] == Path("b")
    assert parsed("--whole=3", defaults={"whole": 9})["whole"] == 3


def test_help_is_the_docstring(capsys, monkeypatch):
    assert "--whole=int  (default 1)\n      a number of things." in (
        flags.page(every_kind)
    )
    monkeypatch.setattr(sys, "argv", ["austen", "--help"])
    with pytest.raises(SystemExit) as stopped:
        main.run(language_model.experiment, generate=language_model.generate)
    said = capsys.readouterr().out
    assert not stopped.value.code
    for text in ("Jane Austen", "--depth=int", "--prompt=str", "--mesh=str"):
        assert text in said


def test_every_flag_of_every_experiment_is_told():
    for function in (
        main.universal,
        language_model.experiment,
        language_model.generate,
    ):
        told = flags.told(function)
        assert all(told.get(name) for name in flags.parameters(function))


BAD_FLAGS = {
    "unknown flag": (["--lenght=9"], "Did you mean: length"),
    "wrong type": (["--depth=deep"], "--depth: expected an integer, got 'deep'"),
    "no number": (["--matrix_rate=fast"], "expected a number, got 'fast'"),
    "no switch": (["--platform_tuning=maybe"], "expected true or false, got 'maybe'"),
    "bad choice": (
        ["--tokenizer=words"],
        "expected one of bpe, characters, bytes, got 'words'",
    ),
    "no value": (["--depth"], "Missing value for flag --depth"),
    "bad verb": (
        ["trian"],
        "expected one of train, evaluate, generate, show, benchmark",
    ),
    "late verb": (["--depth=1", "generate"], "expected flags --name=value"),
    "another verb's flag": (["evaluate", "--prompt=x"], "'prompt'"),
    "unknown axis": (["--mesh=rows:2"], "got 'rows:2'"),
    "axis twice": (["--mesh=data:2,data:4"], "got 'data:4'"),
    "axis without size": (["--mesh=data"], "got 'data'"),
    "impossible mesh": (["--mesh=tensor:3"], "number of devices, 8; got"),
    "no devices": (["--mesh=fsdp:0"], "expected at least 1, got 0"),
    "half a cluster": (["--process=1"], "together"),
    "no folder to generate from": (["generate"], "expected the folder of a run"),
    "no folder to evaluate": (["evaluate"], "expected the folder of a run"),
    "missing text": (["--text=/no/such.txt"], "/no/such.txt"),
    "no steps": (["--steps=0"], "steps: expected at least 1, got 0"),
    "no cadence": (["--log_every=0"], "log_every: expected at least 1, got 0"),
    "rows for no mesh": (["--batch_size=9"], "expected a multiple of 8"),
    "length beyond the text": (["--length=100000000"], "100000000"),
    "more rows than the text": (["--batch_size=8000000"], "8000000"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    argv, expected = BAD_FLAGS[case]
    monkeypatch.chdir(tmp_path)
    if case == "half a cluster":
        with pytest.raises(ValueError, match=expected):
            launch.joined([None, None, 1])
        return
    assert expected in commands.refused(argv, capsys, monkeypatch, run=language_model)
    assert commands.contents(tmp_path) == {}


BAD_TEXTS = {
    "empty": (b"", "text.txt"),
    "not UTF-8": (b"\xff\xfe\x00h" * 999, "UTF-8"),
    "too little for one batch": (b"It is a truth.\n\nSo it is.", "expected"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    content, expected = BAD_TEXTS[case]
    (tmp_path / "text.txt").write_bytes(content)
    argv = [f"--text={tmp_path / 'text.txt'}", f"--workdir={tmp_path / 'run'}"]
    argv += ["--tokenizer=bytes"]
    assert expected in commands.refused(argv, capsys, monkeypatch, run=language_model)
    assert commands.contents(tmp_path).keys() == {"text.txt"}


@pytest.fixture
def run_folder(tmp_path):
    """A folder in which a run with width 8 was begun."""
    record = {"experiment": "tiny_experiment", "flags": {"width": 8}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


BAD_FOLDERS = {
    "another experiment's": ('{"experiment": "austen"}', "got one of austen"),
    "another flag": (None, "--width: expected 8"),
    "corrupt": ('{"experi', "expected a run's record"),
    "no record": ("[1, 2]", "expected a run's record"),
    "binary": ("\udcff\udcfe", "expected a run's record"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_are_refused_untouched(case, run_folder, capsys, monkeypatch):
    record, expected = BAD_FOLDERS[case]
    if record is not None:
        content = record.encode(errors="surrogateescape")
        (run_folder / "run.json").write_bytes(content)
    before = commands.contents(run_folder)
    argv = [f"--workdir={run_folder}", "--width=16"]
    assert expected in commands.refused(argv, capsys, monkeypatch)
    assert commands.contents(run_folder) == before


def test_unwritable_folders_are_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    argv = [f"--workdir={tmp_path / 'file' / 'run'}"]
    assert "expected a folder that can be written" in commands.refused(
        argv, capsys, monkeypatch
    )
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    """The flags of the shipped experiment, made tiny, on a short text."""
    folder = tmp_path_factory.mktemp("novel")
    said = [f"It is a truth that {i} is less than {i + 1}.\n\n" for i in range(400)]
    (folder / "text.txt").write_text("".join(said))
    flags_ = "--depth=1 --length=64 --tokenizer=bytes --batch_size=8 --steps=2"
    places = [f"--text={folder / 'text.txt'}", f"--workdir={folder / 'run'}"]
    return [*flags_.split(), "--dtype=float32", *places]


def test_every_verb_of_the_shipped_experiment(novel, capsys, monkeypatch):
    """Train, evaluate, generate; a prompt that is too long is refused."""
    assert commands.ran(novel, monkeypatch, run=language_model) == 0
    assert "finished; see" in capsys.readouterr().out
    workdir = novel[-1]
    assert commands.ran(["evaluate", workdir], monkeypatch, run=language_model) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    shown = Path(workdir.removeprefix("--workdir=")) / "samples.txt"
    samples = shown.read_text()
    shown.unlink()
    assert commands.ran(["show", workdir], monkeypatch, run=language_model) == 0
    assert shown.read_text() == samples
    argv = ["generate", workdir, "--prompt=It is", "--new_tokens=4"]
    assert commands.ran(argv, monkeypatch, run=language_model) == 0
    assert capsys.readouterr().out.startswith("It is")
    argv[2] = "--prompt=" + "It is a truth. " * 9
    refusal = commands.refused(argv, capsys, monkeypatch, run=language_model)
    assert "prompt too long: expected at most 64 tokens" in refusal
    refusal = commands.refused(
        [workdir, "--depth=2"], capsys, monkeypatch, run=language_model
    )
    assert "--depth: expected 1, with which the run in" in refusal


START = """
import sys, time
start = time.perf_counter()
import transformer
from transformer import main
main.parsed(["--depth=3"], __import__("light").experiment, None)
print(time.perf_counter() - start, {"jax", "orbax", "flax"} & set(sys.modules))
"""


def test_flags_are_parsed_before_anything_heavy_loads(tmp_path):
    (tmp_path / "light.py").write_text("def experiment(*, depth: int = 1): pass\n")
    done = subprocess.run(
        [sys.executable, "-c", START],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(main.__file__).parents[1]}"},
        cwd=tmp_path,
    )
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "set()"
    assert float(seconds) < 3


def test_tiny_experiment_is_what_it_says():
    assert flags.told(tiny_experiment.experiment)["steps"] == "of training."
