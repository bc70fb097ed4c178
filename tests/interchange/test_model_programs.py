"""Programs of encoder-decoders, videos, trajectories and diffusion give the numbers of
transformers and diffusers, from inputs of their names, with open sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

from transformer.interchange import folder, model_programs, programs, stablehlo

FIXTURES = Path(__file__).parent / "fixtures"
# Over the spread of an output.
CLOSE = 1e-5
NEW = 16


def inputs_of(reference: Any) -> dict[str, np.ndarray]:
    """The arrays of a fixture, and those that have other names there."""
    found = dict(reference)
    if "source_BL" in found:
        found["input_ids"] = found["source_BL"]
        found["attention_mask"] = found["source_BL"] > 0
    if "raw_BLP" in found:
        found["input_features"] = found["raw_BLP"].swapaxes(1, 2)
    if "ids_BL" in found:
        found |= {"decoder_input_ids": found["ids_BL"], "logits": found["logits_BLV"]}
    return found


def call(name: str, which: str, **arrays: Any) -> tuple[programs.Program, list[Any]]:
    """What the program `which` of a fixture gives, lowered with its open sizes, and
    called for the inputs of the fixture, or `arrays`."""
    opened = folder.open_folder(FIXTURES / name)
    program = {
        one.name: one for one in model_programs.programs(opened, prompt=4, new=NEW)
    }[which]
    given = inputs_of(np.load(FIXTURES / name / "reference.npz")) | arrays
    lowered: jax.export.Exported = stablehlo.lower(opened, program)
    tensors = {key: tensor.read() for key, tensor in opened.tensors.items()}
    inputs = [np.asarray(given[one.name], one.dtype) for one in program.inputs]
    outputs = lowered.call(tensors, *inputs)
    several = len(program.outputs) > 1
    return program, list(outputs) if several else [outputs]


ENCODER_DECODERS = (
    pytest.param("t5", marks=pytest.mark.slow),
    "marian",
    pytest.param("whisper", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(
    "name",
    [*ENCODER_DECODERS, "videomae_classifier", "decision_transformer", "dit"],
)
def test_forward_gives_the_outputs_of_the_library(name: str) -> None:
    reference = inputs_of(np.load(FIXTURES / name / "reference.npz"))
    program, outputs = call(name, "forward")
    for key, got in zip(program.outputs, outputs, strict=True):
        got, expected = np.asarray(got), reference[key]
        assert got.shape == expected.shape
        if name == "decision_transformer":
            real_BL = reference["attention_mask"] > 0
            got, expected = got[real_BL], expected[real_BL]
        assert np.abs(got - expected).max() / expected.std() < CLOSE


@pytest.mark.slow
def test_generation_ends_as_that_of_transformers() -> None:
    """The excluded tokens and the last one of generation_config.json, in the program.
    Sources of another length than when it was lowered."""
    expected = np.load(FIXTURES / "marian" / "reference.npz")["ended_BL"]
    _, (sequences, lengths) = call("marian", "generate")
    np.testing.assert_array_equal(sequences, expected)
    assert set(np.asarray(lengths)) == {NEW + 1}


@pytest.mark.slow
def test_transcripts_follow_their_prompts() -> None:
    """Of one token, padded; the most likely tokens of transformers."""
    expected = np.load(FIXTURES / "whisper" / "reference.npz")["greedy_BL"]
    ids_BL = np.pad(expected[:, :1], ((0, 0), (0, 3)))
    prompts = {"decoder_input_ids": ids_BL, "lengths": np.ones(2)}
    _, (sequences, lengths) = call("whisper", "generate", **prompts)
    for row, (got, length) in enumerate(zip(sequences, lengths, strict=True)):
        np.testing.assert_array_equal(got[:length], expected[row, :length])
        assert length == NEW + 1 or expected[row, length - 1] == 2


@pytest.mark.parametrize(
    "name", ["mistral", pytest.param("gpt2", marks=pytest.mark.slow)]
)
def test_steps_generate_the_tokens_of_transformers(name: str) -> None:
    """One token at a time from an empty cache; a window has fewer slots than tokens."""
    opened = folder.open_folder(FIXTURES / name)
    expected = np.load(FIXTURES / name / "reference.npz")["greedy_BL"]
    length, prompt = expected.shape[1], expected.shape[1] - NEW
    found = model_programs.programs(opened, prompt=prompt, new=NEW)
    (program,) = (one for one in found if one.name == "step")
    shapes = [one.sizes(B=2) for one in program.inputs]
    assert (shapes[2][2] < prompt) == (name == "mistral")
    apply, cache = jax.jit(program.apply), [np.zeros(s, "f") for s in shapes[2:]]
    params, ids_BL = opened.read_params(), expected[:, :prompt]
    for past in range(length - 1):
        token_BL = ids_BL[:, past : past + 1]
        logits_BLV, *cache = apply(params, token_BL, np.int32(past), *cache)
        if past + 1 == ids_BL.shape[1]:
            best_BL = np.asarray(logits_BLV).argmax(-1)
            ids_BL = np.concatenate([ids_BL, best_BL], axis=1)
    np.testing.assert_array_equal(ids_BL, expected)


def test_an_example_is_within_the_limits() -> None:
    opened = folder.open_folder(FIXTURES / "decision_transformer")
    (program,) = model_programs.programs(opened, prompt=4, new=NEW)
    assert program.limits == ("L <= 5",)
    assert {one.shape[1] for one in program.example(2, 7)} == {5}
