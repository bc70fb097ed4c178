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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["llama", "bert", "vit", "clip", "marian", "dit"])
@pytest.mark.parametrize(
    "format",
    [
        pytest.param("onnx", marks=missing(*onnx.PACKAGES)),
        pytest.param("savedmodel", marks=missing("tensorflow")),
    ],
)
def test_programs_are_written_and_called(name, format, tmp_path, capsys) -> None:
    """`write_programs` raises where an output differs by more than rounding."""
    path = tmp_path / name
    shutil.copytree(FIXTURES / name, path)
    export.write_programs(folder.open_folder(path), format, prompt=8, new=4)
    printed = capsys.readouterr().out
    assert "differs from the net by" in printed
    left_out = {"onnx": "generate", "savedmodel": "step"}[format]
    offers = name == "llama" or (format, name) == ("onnx", "marian")
    assert (f"{left_out}: left out" in printed) == offers


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_the_example_of_the_docs_generates_in_onnx_runtime(
    tmp_path, monkeypatch, capsys
) -> None:
    """Token for token what our cached decoding generates, beyond a window."""
    path = tmp_path / "mistral"
    shutil.copytree(FIXTURES / "mistral", path)
    reference = np.load(path / "reference.npz")["greedy_BL"]
    opened = folder.open_folder(path)
    programs = model_programs.programs(opened, prompt=20, new=16)
    onnx.write(opened, next(one for one in programs if one.name == "step"))
    _, example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert "transformer" not in example and len(example.splitlines()) <= 22
    prompt = f"ids = np.array({reference[:, :20].tolist()}, np.int32)"
    example, count = re.subn(r"ids = np\.array.*", prompt, example, count=1)
    assert count == 1
    monkeypatch.chdir(path)
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
    path = tmp_path / "vit"
    shutil.copytree(FIXTURES / "vit", path)
    match = r"jax2onnx 0\.1 converts, got NotImplementedError: no plugin for it$"
    with pytest.raises(ValueError, match=match):
        export.write_programs(folder.open_folder(path), "onnx", prompt=8, new=4)
