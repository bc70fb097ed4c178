"""Samples and decoding speed of a language model."""

from __future__ import annotations

from typing import Any

import jax

from transformer.generation import text_model

OPENINGS = ("It is a truth", "Emma ", "The ball", '"My dear Mr. Bennet,"')


def report(model: text_model.TextModel, params: Any, key: jax.Array) -> dict[str, Any]:
    """Continuations of the openings that the sequence length has room for, or of the
    first letter of one."""
    new_tokens = min(150, model.sequence_length // 2)
    room = model.sequence_length - new_tokens
    prompts = [o for o in OPENINGS if len(model.tokenizer.encode(o)) <= room]
    prompts = prompts or [OPENINGS[0][0]]
    choose = text_model.sampler_from_flags(temperature=0.8, top_p=0.95)
    texts = text_model.complete(
        model, params, prompts, key, choose=choose, new_tokens=new_tokens
    )
    return {"samples.txt": "\n\n----\n\n".join(texts) + "\n"}


def decoding(model: text_model.TextModel, params: Any) -> dict[str, float]:
    """Tokens decoded per second, and the fraction of the memory bandwidth limit."""
    # A run that is not measured does without the loop and its checkpoints.
    from transformer.evaluation import decode_speed
    from transformer.training import benchmark

    return decode_speed.decode_speed(
        model.fns,
        params,
        length=model.sequence_length,
        bandwidth=benchmark.memory_bandwidth,
    )
