"""Decoding with narrow weights equals float32 decoding with the weights that they
stand for, token for token."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import jax
import pytest
from cases import MODELS, random_params

from transformer.generation import decoding, logit_filters, text_model
from transformer.network import narrow_weights, stack

MODERN = MODELS[1].make
NETS = {
    "gpt2": MODELS[0].make,
    "scanned": partial(MODERN, stack=stack.ScannedStack),
}
ONE = [[7, 3, 9, 2, 5]]
EIGHT = [[1 + row, 3, 9 + row][: 1 + row % 3] for row in range(8)]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


def decode(fns: decoding.DecodeFns, params: Any, prompts: Any, choose: Any) -> Any:
    key = jax.random.key(1)
    sampling: Any = {"choose": choose, "new_tokens": 6, "burst": 3}
    return list(text_model.stream_tokens(fns, params, prompts, key, **sampling))


@pytest.mark.parametrize(
    ("dtype", "net", "prompts", "choose"),
    [
        ("bfloat16", "gpt2", ONE, logit_filters.greedy),
        ("bfloat16", "scanned", EIGHT, logit_filters.greedy),
        ("int8", "scanned", ONE, logit_filters.greedy),
        (
            "int8",
            "gpt2",
            EIGHT,
            logit_filters.categorical(logit_filters.top_k(9)),
        ),
    ],
    ids=["bfloat16", "bfloat16, 8 texts", "int8", "int8, 8 texts sampled"],
)
def test_tokens_equal_those_of_the_rounded_weights(
    dtype: Any, net: str, prompts: Any, choose: Any
) -> None:
    module = NETS[net]()
    params = random_params(module)
    fns = decoding.decode_fns(module, "float32")
    rounded = narrow_weights.dequantize(narrow_weights.narrow(params, dtype))
    expected = decode(fns, rounded, prompts, choose)
    assert decode(decoding.narrow(fns, dtype), params, prompts, choose) == expected


def test_the_verb_prints_what_is_narrow_and_float32_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = NETS["gpt2"]()
    params = random_params(module)
    fns = decoding.decode_fns(module, "float32")
    model = text_model.TextModel(fns, None, sequence_length=16)
    assert text_model.narrow(model, params, "float32").fns is fns
    assert "float32" in capsys.readouterr().out
    text_model.narrow(model, params, "int8")
    line = capsys.readouterr().out
    assert line.startswith("decoding with int8 weights: ") and line.count("\n") == 1
