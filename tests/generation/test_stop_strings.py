"""Continuations that end at a string, in batches as alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pretrained_folder
import pytest

from transformer.generation import decoding, logit_filters, stop_strings
from transformer.generation.stop_strings import Prompt
from transformer.interchange import folder
from transformer.interchange import tokenizer as tokenizer_


def test_text_ends_before_the_first_string() -> None:
    assert stop_strings.cut_text("a. b\nc", ("\n", ".")) == ("a", True)
    assert stop_strings.cut_text("a. b", ()) == ("a. b", False)


def test_a_batch_is_completed_as_each_prompt_alone(tmp_path) -> None:
    model = pretrained_folder.language_model(tmp_path / "llama")
    fns = decoding.decode_fns(model.net, "float32")
    complete = stop_strings.make_completer(
        fns, model.tokenizer, length=64, choose=logit_filters.greedy
    )
    texts = ["the hen", "b", "a long prompt of bytes"]
    ids = [tuple(model.tokenizer.encode(text).tolist()) for text in texts]
    key = jax.random.key(0)
    choose = logit_filters.among_first(259, logit_filters.greedy)
    stops: Any = {"choose": choose, "new_tokens": 20, "stop": model.tokenizer.stops}
    generate = jax.jit(partial(decoding.generate, fns, **stops))
    alone = []
    for row in ids:
        ids_BL = np.zeros((1, 32), np.int32)
        ids_BL[0, : len(row)] = row
        state = generate(model.params, ids_BL, np.array([len(row)]), key)
        new = np.asarray(state.ids_BL)[0, len(row) : int(state.length_B[0])]
        alone.append(model.tokenizer.decode(new))
    prompts = [Prompt(row, (), 20) for row in ids]
    assert dict(complete(model.params, prompts, key)) == dict(enumerate(alone))
    string = alone[0][3:5]
    cut = [Prompt(row, (string,), 20) for row in ids]
    found = dict(complete(model.params, cut, key))
    assert found[0] == alone[0][: alone[0].index(string)]
    short = [Prompt(row, (), 3) for row in ids]
    for number, text in complete(model.params, short, key):
        assert alone[number].startswith(text) and len(text) < len(alone[number])
    with pytest.raises(ValueError, match="at most 64 with the 60 new ones"):
        next(complete(model.params, [Prompt(ids[0], (), 60)], key))


def test_a_scanned_stack_is_unrolled_once_and_writes_the_same(
    tmp_path, monkeypatch
) -> None:
    """For two batches, where they are worth it."""
    monkeypatch.setattr(stop_strings, "UNROLLED_FROM", 10)
    path = pretrained_folder.write(tmp_path / "llama")
    tokenizer = tokenizer_.read_tokenizer(path)
    prompts = [Prompt((104, 101), (), 5), Prompt(tuple(range(60, 80)), (), 5)]
    calls, found = [], []
    for scanned in (False, True):
        opened = folder.open_folder(path, scanned=scanned)
        fns = decoding.decode_fns(opened.net, "float32")
        assert (fns.unroll is not None) == scanned

        def unroll(unrolled: Any = fns.unroll) -> decoding.DecodeFns:
            calls.append(unrolled)
            return unrolled()

        fns = fns._replace(unroll=unroll if scanned else None)
        options: Any = {"choose": logit_filters.greedy, "batch_size": 1}
        complete = stop_strings.make_completer(fns, tokenizer, length=64, **options)
        params = opened.read_params()
        found.append(dict(complete(params, prompts, jax.random.key(0))))
    assert found[0] == found[1] and len(calls) == 1
    assert all(len(text) > 1 for text in found[0].values())
