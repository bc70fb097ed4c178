"""ONNX and SavedModels give what the net gives, where their packages are there."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformer.interchange import (
    export,
    folder,
    model_programs,
    onnx,
    programs,
)

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
LEFT_OUT = "marian", "t5", "whisper"


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
    assert ("generate: left out" in printed) == (format == "onnx" and name in LEFT_OUT)
    is_step_left_out = (format, name) == ("savedmodel", "llama")
    assert ("step: left out" in printed) == is_step_left_out


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_a_decision_transformer_is_refused_by_onnx_in_one_line(tmp_path) -> None:
    opened = copy("decision_transformer", tmp_path)
    with pytest.raises(ValueError, match="expected .* jax2onnx .* converts") as refusal:
        export.write_programs(opened, "onnx", prompt=8, new=4)
    assert "\n" not in str(refusal.value)


def generation(
    name: str, tmp_path: Path, *, scanned: bool = False, end: int = 2
) -> tuple[folder.PretrainedFolder, programs.Program, Any]:
    """A fixture, with its greedy generation after prompts of 20 tokens, of 16 new ones
    up to `end`, and the same in ONNX Runtime: (ids_BL, length_B) -> (sequences,
    new_lengths)."""
    opened = copy(name, tmp_path)
    settings = json.dumps({"eos_token_id": [2, end]})
    (opened.folder / "generation_config.json").write_text(settings)
    opened = folder.open_folder(opened.folder, scanned=scanned)
    _, program, _ = model_programs.programs(opened, prompt=20, new=16)
    written = onnx.write(opened, program)
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(written.file))

    def generate(ids_BL: np.ndarray, length_B: np.ndarray) -> Any:
        inputs = {"input_ids": ids_BL, "lengths": length_B}
        return session.run(None, {k: v.astype(np.int32) for k, v in inputs.items()})

    return opened, program, generate


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scanned"),
    [
        *(("gemma2", False), ("gemma3", False), ("gpt2", False), ("gpt_neox", False)),
        *(("llama", True), ("mistral", False), ("mistral", True)),
    ],
)
def test_generation_in_onnx_runtime_is_that_of_transformers(
    name, scanned, tmp_path
) -> None:
    """Token for token, beyond a window; also of scanned layers."""
    opened, _, generate = generation(name, tmp_path, scanned=scanned)
    expected = np.load(opened.folder / "reference.npz")["greedy_BL"]
    sequences, lengths = generate(expected[:, :20], np.full(len(expected), 20))
    np.testing.assert_array_equal(sequences, expected)
    assert (lengths == 36).all()


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_each_row_of_onnx_ends_at_its_own_end(tmp_path, monkeypatch, capsys) -> None:
    """Prompts of other lengths, of which one ends early, as the compiled net has them;
    what is padding in a prompt changes nothing. The example of the docs runs."""
    reference = np.load(FIXTURES / "mistral" / "reference.npz")["greedy_BL"]
    end = int(reference[0, 23])
    assert end not in reference[0, 20:23]
    opened, program, generate = generation("mistral", tmp_path, end=end)
    ids_BL = np.concatenate([reference[:, :20]] * 2).astype(np.int32)
    length_B = np.array([20, 20, 1, 7], np.int32)
    expected = program.apply(opened.read_params(), ids_BL, length_B)
    for padding in (0, 5):
        ids_BL[2, 1:], ids_BL[3, 7:] = padding, padding
        got = generate(ids_BL, length_B)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
    assert got[1][0] == 24 and got[0][0, 23] == end and got[1].max() > 24
    _, example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert "transformer" not in example and len(example.splitlines()) <= 12
    monkeypatch.chdir(opened.folder)
    exec(compile(example, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip().startswith("[[5, 8, 13, ")


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
