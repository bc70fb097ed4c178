"""The command `export --init_from=FOLDER`, from the command line to the new folder, of
each kind of model that a run is not trained from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import commands
import fake_store
import marian_folder
import numpy as np
import pytest
import safetensors.numpy

import transformer
from experiments import pretrained
from transformer.interchange import export, folder, tasks

FIXTURES = Path(__file__).parent / "fixtures"
WEIGHTS = "model.safetensors"
# Encoders, encoder-decoders, and what has no tokens.
NAMES = (
    *("bert", "clip", "decision_transformer", "dit", "t5", "videomae_classifier"),
    *("vit_classifier", "whisper"),
)


def status(argv: list[str], monkeypatch: Any) -> int:
    run = type("Run", (), {"experiment": staticmethod(pretrained.experiment)})
    run.verbs = {**tasks.all_verbs(), "export": export.export}  # pyright: ignore
    return commands.exit_status(argv, monkeypatch, run=run)


def assert_tensors_equal(out: Path, source: Path) -> None:
    (file,) = source.glob("*.safetensors")
    expected = safetensors.numpy.load_file(file)
    found = safetensors.numpy.load_file(next(out.glob("*.safetensors")))
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[name], name)
    missing = expected.keys() - found.keys()
    assert not missing, missing


@pytest.mark.parametrize("name", NAMES)
def test_the_command_writes_what_it_has_read(
    name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Tensors equal to the bit, under their own names."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(FIXTURES / name, source)
    argv = ["export", f"--init_from={source}", f"--folder={out}"]
    assert status([*argv, f"--workdir={tmp_path / 'run'}"], monkeypatch) == 0
    assert f"{out}: " in capsys.readouterr().out
    assert_tensors_equal(out, source)
    assert folder.read_config(out)[1] == folder.read_config(source)[1]


def test_the_folder_may_be_in_a_bucket(
    tmp_path: Path, monkeypatch: Any, capsys
) -> None:
    """The same files as on disk; a folder that is there is refused by its own name."""
    fake_store.install(tmp_path / "store", monkeypatch)
    source, out = FIXTURES / "vit_classifier", tmp_path / "store" / "bucket" / "out"
    argv = ["export", f"--init_from={source}", f"--workdir={tmp_path / 'run'}"]
    assert status([*argv, f"--folder={tmp_path / 'local'}"], monkeypatch) == 0
    assert status([*argv, "--folder=gs://bucket/out"], monkeypatch) == 0
    assert commands.contents(out) == commands.contents(tmp_path / "local")
    capsys.readouterr()
    assert status([*argv, "--folder=gs://bucket/out"], monkeypatch) == 2
    refused = "error: gs://bucket/out: expected a folder that does not exist yet\n"
    assert capsys.readouterr().err == refused


def test_marian_is_exported_by_the_command_and_generates(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """With both models of its tokenizer; the export is a folder to begin with."""
    source, out = marian_folder.write(tmp_path / "marian"), tmp_path / "out"
    argv = ["export", f"--init_from={source}", f"--folder={out}"]
    assert status([*argv, f"--workdir={tmp_path / 'run'}"], monkeypatch) == 0
    assert_tensors_equal(out, source)
    for name in (*marian_folder.NAMES, "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    texts = [
        transformer.load(path).generate("The capital of Portugal", new_tokens=9)
        for path in (source, out)
    ]
    assert texts[0] and texts[0] == texts[1]
