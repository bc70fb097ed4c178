"""ONNX and SavedModels give what the net gives, where their packages are there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from transformer.interchange import export, folder, onnx

FIXTURES = Path(__file__).parent / "fixtures"


def missing(*packages: str) -> pytest.MarkDecorator:
    """Skip where one of the packages is not there."""
    return pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in packages),
        reason=f"needs {' and '.join(packages)}",
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["llama", "bert", "vit", "clip"])
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
    assert ("left out" in printed) == (format == "onnx" and name == "llama")


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
