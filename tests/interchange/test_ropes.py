"""Ropes whose frequencies change with the length of a row: exact up to the length of
pretraining, refused beyond."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import pytest
from test_configurations import FIXTURES, sizes_of

from transformer.interchange import architecture, folder
from transformer.interchange.config import Reader
from transformer.network import masks

FACTORS = {"short_factor": [1, 1.25, 1.5], "long_factor": [1, 4, 9.5]}
# As files of transformers 4 say it: the lengths stand outside.
OLD: dict[str, Any] = {
    "rope_parameters": ...,
    "rope_theta": 1e4,
    "rope_scaling": {"type": "longrope", **FACTORS},
}


def old(**changes: Any) -> dict[str, Any]:
    scaling = {**OLD["rope_scaling"], **changes}
    kept = {key: value for key, value in scaling.items() if value is not ...}
    return {**OLD, "rope_scaling": kept}


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_both_dialects_of_longrope_say_the_same(kind: str) -> None:
    sizes = sizes_of("phi3_longrope")
    assert sizes_of("phi3_longrope", **old(type=kind)) == sizes
    assert (sizes.length, sizes.rope.claimed_length, sizes.rotated) == (40, 160, 6)


def test_the_older_dialect_is_written_with_three_keys() -> None:
    """Phi 3 of transformers 4 refuses others."""
    kind = architecture.find("phi3", "test")
    sizes = sizes_of("phi3_longrope")
    written = json.loads(json.dumps(kind.write(sizes)))
    assert written["rope_scaling"] == OLD["rope_scaling"]
    lengths = "max_position_embeddings", "original_max_position_embeddings"
    assert [written[key] for key in lengths] == [160, 40]
    assert kind.read(Reader(written)) == sizes
    other = sizes._replace(rope=sizes.rope._replace(amplitude=1.5))
    written = json.loads(json.dumps(kind.write(other)))
    assert written["rope_scaling"]["attention_factor"] == 1.5
    assert kind.read(Reader(written)) == other


@pytest.mark.parametrize("name", ["phi3_longrope", "llama_biased"])
def test_rows_and_caches_beyond_the_length_are_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder says so in one line when it is opened."""
    opened = folder.open_folder(FIXTURES / name)
    (line,) = capsys.readouterr().out.splitlines()
    assert "rows of at most 40 tokens" in line
    params, ids_BL = opened.read_params(), jnp.ones((1, 41), jnp.int32)
    with pytest.raises(ValueError, match="rows of at most 40 tokens, got 41"):
        opened.net.apply({"params": params}, ids_BL, masks.single_document(41))
    with pytest.raises(ValueError, match="rows of at most 40 tokens, got 41"):
        opened.net.empty_cache(1, 41, 1, jnp.float32)
    opened.net.empty_cache(1, 40, 1, jnp.float32)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "factors of other heads": (
        "phi3_longrope",
        {**OLD, "partial_rotary_factor": 1.0},
        "expected 4, one for each pair of features, got 3",
    ),
    "few factors": (
        "phi3_longrope",
        old(long_factor=[1.0]),
        "expected 3, .*got 1",
    ),
    "no factors": ("phi3_longrope", old(short_factor=...), "expected short_factor"),
    "a factor of 0": ("phi3_longrope", old(short_factor=[1, 0, 1]), "more than 0"),
    "a factor of text": (
        "phi3_longrope",
        old(long_factor=[1, "2", 1]),
        "a list",
    ),
    "an infinite factor": (
        "phi3_longrope",
        old(long_factor=[1, 1e999, 1]),
        "a list",
    ),
    "a length of text": (
        "phi3_longrope",
        {**OLD, "original_max_position_embeddings": "40"},
        "original_max_position_embeddings: expected a whole number",
    ),
    "no length": (
        "phi3_longrope",
        {**OLD, "original_max_position_embeddings": ...},
        "expected original_max_position_embeddings, got none",
    ),
    "YaRN of Phi 3": (
        "phi3_longrope",
        old(type="yarn"),
        "type: expected default or longrope, got 'yarn'",
    ),
    "two kinds": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
        "type: expected 'linear', got 'yarn'",
    ),
    "longrope of a mixture": (
        "mixtral",
        {"rope_parameters": {"rope_type": "longrope", **FACTORS}},
        "rope_type: expected default, linear, llama3 or yarn, got 'longrope'",
    ),
    "a window of Phi 4": ("phi3_longrope", {"full_attn_mod": 2}, "full_attn_mod: exp"),
    "biases of Mistral": ("mistral", {"attention_bias": True}, "attention_bias: expe"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rope_that_is_not_expressed_is_refused(name: str) -> None:
    fixture, changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        sizes_of(fixture, **changes)
    assert "\n" not in str(error.value)


def test_an_absent_length_is_the_default_of_transformers() -> None:
    lengths = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "phi3": 4096}
    for name, length in lengths.items():
        absent = {"max_position_embeddings": ...}
        absent |= {"original_max_position_embeddings": ...} if name == "phi3" else {}
        assert sizes_of(name, **absent).length == length
