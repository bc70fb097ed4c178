"""An exported program gives what transformers and the net give, for any number of rows
and tokens, without this library."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy

from transformer.interchange import export, folder, model_programs, programs, stablehlo
from transformer.models import decoder
from transformer.network import masks

FIXTURES = Path(__file__).parent / "fixtures"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "exports.md"
PROMPT, NEW = 8, 4
# Rounding, over the spread of an output.
CLOSE = 1e-5


def write(name: str, tmp_path: Path) -> tuple[folder.PretrainedFolder, dict[str, Any]]:
    """The folder of a fixture with its programs, and these."""
    path = tmp_path / name
    shutil.copytree(FIXTURES / name, path)
    opened = folder.open_folder(path)
    found = {}
    for program in model_programs.programs(opened, prompt=PROMPT, new=NEW):
        if stablehlo.left_out(program):
            continue
        written = stablehlo.write(opened, program)
        assert written.difference < CLOSE
        loaded = jax.export.deserialize(bytearray(written.file.read_bytes()))
        assert loaded.platforms == stablehlo.PLATFORMS
        found[program.name] = loaded
    return opened, found


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_decoder_is_called_with_the_tensors_of_its_file(
    name, tmp_path, monkeypatch, capsys
) -> None:
    """Logits of the net; greedy tokens are their argmax; the example of the docs."""
    opened, found = write(name, tmp_path)
    tensors = safetensors.numpy.load_file(opened.folder / "model.safetensors")
    params = {"params": opened.read_params()}

    @jax.jit
    def logits(ids_BL: Any) -> Any:
        tokens = masks.single_document(ids_BL.shape[1])
        return decoder.logits(opened.net.apply(params, ids_BL, tokens))

    ids_BL = np.arange(3 * PROMPT, dtype=np.int32).reshape(3, PROMPT)
    for shape in [(1, 1), (3, PROMPT)]:
        some_BL = ids_BL[: shape[0], : shape[1]]
        got = found["forward"].call(tensors, some_BL)
        np.testing.assert_allclose(got, logits(some_BL), atol=CLOSE)
    length_B = np.array([PROMPT, 1, 5], np.int32)
    sequences, ends = found["generate"].call(tensors, ids_BL, length_B)
    for row, (start, end) in enumerate(zip(length_B, ends, strict=True)):
        whole = np.zeros((1, PROMPT + NEW), np.int32)
        whole[0, :start] = ids_BL[row, :start]
        for place in range(start, end):
            whole[0, place] = logits(whole)[0, place - 1].argmax()
        np.testing.assert_array_equal(sequences[row], whole[0])
        assert start < end <= start + NEW
    example, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert "transformer" not in example and len(example.splitlines()) <= 22
    monkeypatch.chdir(opened.folder)
    exec(compile(example, str(PAGE), "exec"), {})
    assert f"(2, 3, {opened.sizes.vocab_size})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["bert", "vit", "clip", "roberta_mlm", "modernbert", "vit_classifier"]
)
def test_an_encoder_gives_the_outputs_of_transformers(name, tmp_path) -> None:
    """From ids and pixels as transformers takes them."""
    opened, found = write(name, tmp_path)
    tensors = safetensors.numpy.load_file(opened.folder / "model.safetensors")
    reference = np.load(FIXTURES / name / "reference.npz")
    compared = 0
    for program in model_programs.programs(opened, prompt=PROMPT, new=NEW):
        none = np.zeros_like(reference.get("input_ids"))  # token_type_ids
        inputs = [
            np.asarray(reference.get(one.name, none), one.dtype)
            for one in program.inputs
        ]
        outputs = found[program.name].call(tensors, *inputs)
        outputs = outputs if len(program.outputs) > 1 else [outputs]
        for key, got in zip(program.outputs, outputs, strict=True):
            if key not in reference:
                continue
            got, expected = np.asarray(got), reference[key]
            if got.ndim == 3 and "attention_mask" in reference:
                real_BL = reference["attention_mask"] > 0
                got, expected = got[real_BL], expected[real_BL]
            assert np.abs(got - expected).max() / expected.std() < CLOSE
            compared += 1
    assert compared >= len(found)


def test_scanned_layers_are_the_same_program(tmp_path) -> None:
    path = tmp_path / "llama"
    shutil.copytree(FIXTURES / "llama", path)
    opened = folder.open_folder(path, scanned=True)
    (forward, _, _) = model_programs.programs(opened, prompt=PROMPT, new=NEW)
    assert stablehlo.write(opened, forward).difference < CLOSE


def test_what_has_no_program_is_refused(tmp_path) -> None:
    opened = folder.open_folder(FIXTURES / "t5")._replace(net=None)
    with pytest.raises(ValueError, match="got T5ForConditionalGeneration"):
        model_programs.programs(opened, prompt=PROMPT, new=NEW)
    opened = folder.open_folder(FIXTURES / "gpt2")
    with pytest.raises(ValueError, match="--prompt_tokens: expected at most 64"):
        model_programs.programs(opened, prompt=PROMPT, new=60)


def test_a_wrong_program_is_not_said_to_work() -> None:
    def apply(params: Any, x_BD: Any) -> tuple[Any, ...]:
        return (params * x_BD,)

    inputs = (programs.Input("x", ("B", 3)),)
    program = programs.Program("forward", apply, inputs, ("last_hidden_state",))
    assert programs.check(program, lambda x: [2 * x], 2.0, "x") < CLOSE
    with pytest.raises(RuntimeError, match="x: expected the last_hidden_state of"):
        programs.check(program, lambda x: [2.02 * x], 2.0, "x")
    assert programs.spread_difference([np.ones(2, int)], [np.zeros(2, int)]) == np.inf


def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path, monkeypatch
) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", fail)
    for name, module in export.FORMATS.items():
        with pytest.raises(ValueError, match=f"--format={name}: expected the package"):
            module.require()
