"""The verb `generate` of a model of another library, which may chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from transformer import checks
from transformer.generation import text_model
from transformer.generation.text_model import TextModel
from transformer.interchange import chat_template, generation_settings
from transformer.network.precision import DecodeDtype

TEMPERATURE = 0.8


def generate(
    folder: Path,
    model: TextModel,
    params: Any,
    key: jax.Array,
    *,
    prompt: checks.Prompt = "It is a truth universally acknowledged",
    chat: bool = False,
    new_tokens: checks.Count = 200,
    temperature: checks.Temperature | None = None,
    top_k: checks.Count | None = None,
    top_p: checks.PositiveFraction | None = 0.95,
    min_p: checks.Fraction | None = None,
    sample_seed: checks.Seed = 0,
    decode_dtype: DecodeDtype | None = None,
) -> str:
    """Continue a prompt, or reply to it: print the text token by token, and return it.

    Args:
        prompt: the text to continue.
        chat: the prompt is a message; print it as the chat template of the folder
            writes it, and the reply.
        new_tokens: how many tokens to add, at most.
        temperature: below 1 sharper, above 1 flatter; 0 is greedy, the default of an
            encoder-decoder; a decoder has 0.8.
        top_k: sample from this many most likely tokens only.
        top_p: sample from the fewest tokens of this total probability.
        min_p: sample from tokens at least this fraction as likely as the most likely.
        sample_seed: another number gives another text.
        decode_dtype: of the weights on a CPU; bfloat16 and int8 decode faster and round
            them (pip install -e '.[narrow]'). Float32 unless given.
    """
    # Says what is not followed.
    generation_settings.read(folder)
    if chat:
        messages = [{"role": "user", "content": prompt}]
        prompt = chat_template.render_chat(folder, messages)
        model = model._replace(refused=(), starts=())
    return text_model.generate(
        model,
        params,
        key,
        prompt=prompt,
        new_tokens=new_tokens,
        temperature=TEMPERATURE if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        sample_seed=sample_seed,
        decode_dtype=decode_dtype,
    )
