"""ONNX and SavedModels give what the net gives, where their packages are there."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from transformer.interchange import export, folder, model_programs, onnx

FIXTURES = Path(__file__).parent / "fixtures"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "exports.md"


def missing(*packages: str) -> pytest.MarkDecorator:
    """Skip where one of the packages is not there."""
    return pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in packages),
        reason=f"needs {' and '.join(packages)}",
    )


MARKS = {"onnx": missing(*onnx.PACKAGES), "savedmodel": missing("tensorflow")}
# One of each format every day.
DAILY = ("onnx", "bert"), ("savedmodel", "vit")
ROWS = [
    pytest.param(
        format,
        name,
        marks=[mark] if (format, name) in DAILY else [mark, pytest.mark.slow],
    )
    for format, mark in MARKS.items()
    for name in (
        *("bert", "clip", "decision_transformer", "dit", "llama", "marian", "t5"),
        *("videomae_classifier", "vit", "whisper"),
    )
    if (format, name) != ("onnx", "decision_transformer")
]
GENERATES = "llama", "marian", "t5", "whisper"


def copy(name: str, tmp_path: Path) -> folder.PretrainedFolder:
    """The folder of a fixture, to write into."""
    path = tmp_path / name
    shutil.copytree(FIXTURES / name, path)
    return folder.open_folder(path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("format", "name"), ROWS)
def test_programs_are_written_and_called(format, name, tmp_path, capsys) -> None:
    """`write_programs` raises where an output differs by more than rounding."""
    export.write_programs(copy(name, tmp_path), format, prompt=8, new=4)
    printed = capsys.readouterr().out
    assert "differs from the net by" in printed
    assert ("generate: left out" in printed) == (format == "onnx" and name in GENERATES)
    is_step_left_out = (format, name) == ("savedmodel", "llama")
    assert ("step: left out" in printed) == is_step_left_out


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_a_decision_transformer_is_refused_by_onnx_in_one_line(tmp_path) -> None:
    opened = copy("decision_transformer", tmp_path)
    with pytest.raises(ValueError, match="expected .* jax2onnx .* converts") as refusal:
        export.write_programs(opened, "onnx", prompt=8, new=4)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_the_example_of_the_docs_generates_in_onnx_runtime(
    tmp_path, monkeypatch, capsys
) -> None:
    """Token for token what our cached decoding generates, beyond a window."""
    opened = copy("mistral", tmp_path)
    reference = np.load(opened.folder / "reference.npz")["greedy_BL"]
    programs = model_programs.programs(opened, prompt=20, new=16)
    onnx.write(opened, next(one for one in programs if one.name == "step"))
    _, example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert "transformer" not in example and len(example.splitlines()) <= 22
    prompt = f"ids = np.array({reference[:, :20].tolist()}, np.int32)"
    example, count = re.subn(r"ids = np\.array.*", prompt, example, count=1)
    assert count == 1
    monkeypatch.chdir(opened.folder)
    exec(compile(example, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip() == str(reference.tolist())


def test_a_program_that_is_not_converted_is_refused_in_one_line(
    tmp_path, monkeypatch
) -> None:
    class Converter:
        @staticmethod
        def to_onnx(*arguments: object, **options: object) -> None:
            raise NotImplementedError("no plugin\nfor it")

    monkeypatch.setattr(onnx, "require", lambda: (Converter, None))
    monkeypatch.setattr(onnx, "version", lambda name: "0.1")
    match = r"jax2onnx 0\.1 converts, got NotImplementedError: no plugin for it$"
    with pytest.raises(ValueError, match=match):
        export.write_programs(copy("vit", tmp_path), "onnx", prompt=8, new=4)
