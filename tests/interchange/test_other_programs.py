"""ONNX and SavedModels give what the net gives, where their packages are there."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
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
]
MIXTURES = "glm4_moe", "gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe"
ROWS += [
    pytest.param("onnx", name, marks=[MARKS["onnx"], pytest.mark.slow])
    for name in MIXTURES
]
WITH_STEP = "llama", "marian", "t5", "whisper"


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
    assert "generate: left out" not in printed
    is_step_left_out = format == "savedmodel" and name in WITH_STEP
    assert ("step: left out" in printed) == is_step_left_out


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
        *((name, False) for name in MIXTURES),
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


def inputs_of(name: str, reference: Any) -> dict[str, Any]:
    """Of the generation of an encoder-decoder's fixture. Whisper's second row has a
    longer prompt."""
    if name != "whisper":
        found = {"input_ids": reference["source_BL"]}
        found["attention_mask"] = found["input_ids"] > 0
        assert found["attention_mask"].min() == 0
    else:
        frames = reference["raw_BLP"].swapaxes(1, 2)
        prompts = np.array([[3, 0, 0, 0], [3, 7, 11, 5]])
        found = {"input_features": frames.astype(np.float32)}
        found |= {"decoder_input_ids": prompts, "lengths": np.array([1, 4])}
    return {
        key: value if value.dtype == np.float32 else value.astype(np.int32)
        for key, value in found.items()
    }


# Settings of generation under which the first row is excluded a token that it would
# choose, and one row, of so many tokens, ends before 16 new ones.
ENDED: dict[str, tuple[dict[str, Any], int, int]] = {
    "marian": ({"bad_words_ids": [[0], [23]], "eos_token_id": 12}, 1, 10),
    "t5": (
        {"bad_words_ids": [[60]], "eos_token_id": 33, "forced_eos_token_id": 12},
        *(1, 2),
    ),
    "whisper": ({"suppress_tokens": [59], "eos_token_id": 40}, 0, 5),
}


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ended"),
    [*((name, False) for name in (*ENDED, "t5_v1_1")), *((n, True) for n in ENDED)],
)
def test_an_encoder_decoder_in_onnx_runtime_is_that_of_transformers(
    name, ended, tmp_path
) -> None:
    """Token for token what the compiled net gives, of padded sources and of prompts of
    unequal lengths; rows that end early, excluded tokens and the last token."""
    opened = copy(name, tmp_path)
    file = opened.folder / "generation_config.json"
    settings, row, length = ENDED.get(name, ({}, 0, 0))
    settings = json.loads(file.read_text()) | (settings if ended else {})
    file.write_text(json.dumps(settings))
    made = {o.name: o for o in model_programs.programs(opened, prompt=4, new=16)}
    program = made["generate"]
    written = onnx.write(opened, program)
    reference = np.load(opened.folder / "reference.npz")
    inputs = inputs_of(name, reference)
    session = importlib.import_module("onnxruntime").InferenceSession(str(written.file))
    sequences, lengths = session.run(None, inputs)
    arrays = [inputs[one.name] for one in program.inputs]
    expected = program.apply(opened.read_params(), *map(jnp.asarray, arrays))
    np.testing.assert_array_equal(sequences, expected[0])
    np.testing.assert_array_equal(lengths, expected[1])
    greedy = reference["ended_BL" if name == "marian" else "greedy_BL"]
    if not ended:
        np.testing.assert_array_equal(sequences[0, :17], greedy[0])
        assert lengths.min() == 17
        return
    assert lengths[row] == length and lengths[1 - row] > 16
    assert sequences[row, length - 1] == settings["eos_token_id"]
    assert sequences[0, 1] != greedy[0, 1]
    forced = settings.get("forced_eos_token_id")
    assert forced is None or sequences[1 - row, 16] == forced


class Tiny(NamedTuple):
    """What `onnx.write` has of a folder."""

    folder: Path
    table: np.ndarray

    def read_params(self) -> Any:
        return jnp.asarray(self.table)


def tiny_generation(size: int, **loop: Any) -> programs.Program:
    """The next token is the best of the row `token` of a table plus what a source adds,
    which is a row of the table too; the cache counts the steps."""

    def encode(table: Any, source_BL: Any) -> Any:
        return (table[source_BL[:, 0]],)

    def step(table: Any, ids_BL: Any, past: Any, count: Any, added: Any) -> Any:
        return table[ids_BL] + added[:, None], count + 1.0

    def apply(table: Any, source_BL: Any) -> Any:
        rows, length_B = [], []
        for added in np.asarray(encode(table, source_BL)[0]):
            row = [loop["start"]]
            while len(row) <= loop["new"] and row[-1] not in loop["stop"]:
                logits = np.asarray(table)[row[-1]] + added
                logits[list(loop["excluded"])] = -np.inf
                row.append(int(logits.argmax()))
            if row[-1] not in loop["stop"]:
                row[-1] = loop["forced_end"]
            length_B.append(len(row))
            rows.append(row + [0] * (1 + loop["new"] - len(row)))
        return np.array(rows), np.array(length_B)

    source = programs.Input("input_ids", ("B", "S"), size)
    cache = programs.Input("past_key_values.0.decoder.key", ("B", 1))
    added = programs.Input("past_key_values.0.encoder.key", ("B", size))
    ids = programs.Input("input_ids", ("B", 1), size)
    past = programs.Input("past_length", (), 1 + loop["new"])
    step_ = programs.Program(
        "step",
        step,
        (ids, past, cache, added),
        ("logits", "present.0.decoder.key"),
    )
    encode_ = programs.Program("encode", encode, (source,), ("present.0.encoder.key",))
    made = programs.GreedyLoop(step_, encode=encode_, **loop)
    outputs = "sequences", "new_lengths"
    return programs.Program("generate", apply, (source,), outputs, loop=made)


@pytest.mark.filterwarnings("default")
@missing(*onnx.PACKAGES)
def test_encoder_and_loop_of_one_file_have_a_shared_parameter_once(
    tmp_path, monkeypatch
) -> None:
    """A table of 1.4 MiB, in the file beside. Rows that end early, an excluded token
    and the last token are those of a loop over rows."""
    size = 600
    table = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    options: Any = {"new": 6, "start": 1, "forced_end": 2}
    source_BL = np.arange(1, 17, dtype=np.int32).reshape(8, 2)
    free = tiny_generation(size, **options, stop=(), excluded=())
    first, _ = free.apply(table, source_BL)
    options |= {"stop": (int(first[0, 3]),), "excluded": (int(first[1, 1]),)}
    program = tiny_generation(size, **options)
    expected, lengths = program.apply(table, source_BL)
    assert lengths[0] == 4 and lengths.max() == 7 and (expected == 2).sum() >= 6
    assert (expected[1] != first[1]).any()
    monkeypatch.setattr(programs, "check", lambda *_: 0.0)
    written = onnx.write(Tiny(tmp_path, table), program)  # pyright: ignore
    session = importlib.import_module("onnxruntime").InferenceSession(str(written.file))
    got = session.run(None, {"input_ids": source_BL})
    np.testing.assert_array_equal(got[0], expected)
    np.testing.assert_array_equal(got[1], lengths)
    names = {"generate.onnx", "generate.onnx.data"}
    assert {one.name for one in tmp_path.iterdir()} == names
    assert (tmp_path / "generate.onnx.data").stat().st_size == table.nbytes
    assert written.file.stat().st_size < 1 << 16


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
