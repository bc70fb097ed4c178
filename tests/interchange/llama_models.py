"""Llama and its relatives of transformers for `make_fixtures.py`."""

from __future__ import annotations

import transformers  # pyright: ignore[reportMissingImports]
from fixture_sizes import VOCAB

IDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    **IDS,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def llama() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        **LLAMA, tie_word_embeddings=True, rope_theta=5e5, rms_norm_eps=1e-5
    )
    return transformers.LlamaForCausalLM(config)


def llama31() -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(**LLAMA, rope_parameters=LLAMA3_ROPE)
    return transformers.LlamaForCausalLM(config)


def mistral() -> transformers.PreTrainedModel:
    config = transformers.MistralConfig(**LLAMA, sliding_window=5)
    return transformers.MistralForCausalLM(config)


def qwen2() -> transformers.PreTrainedModel:
    sizes = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes))


def qwen3() -> transformers.PreTrainedModel:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**LLAMA))


def olmo2() -> transformers.PreTrainedModel:
    sizes = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    return transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**sizes))


def phi3() -> transformers.PreTrainedModel:
    sizes = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    config = transformers.Phi3Config(
        **sizes,
        max_position_embeddings=64,
        original_max_position_embeddings=64,
        sliding_window=7,
    )
    return transformers.Phi3ForCausalLM(config)


def phi3_longrope() -> transformers.PreTrainedModel:
    """Heads of 8 features, of which 6 turn, tied embeddings, as in Phi 4 mini."""
    sizes = {k: v for k, v in LLAMA.items() if k != "head_dim"} | {"hidden_size": 32}
    factors = {"short_factor": [1.0, 1.25, 1.5], "long_factor": [1.0, 4.0, 9.5]}
    config = transformers.Phi3Config(
        **sizes,
        max_position_embeddings=160,
        original_max_position_embeddings=40,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors},
        partial_rotary_factor=0.75,
        tie_word_embeddings=True,
    )
    return transformers.Phi3ForCausalLM(config)


def llama_biased() -> transformers.PreTrainedModel:
    """Biases of attention, and a rope that scales beyond the length."""
    config = transformers.LlamaConfig(
        **LLAMA,
        attention_bias=True,
        max_position_embeddings=40,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0},
    )
    return transformers.LlamaForCausalLM(config)


def qwen3_biased() -> transformers.PreTrainedModel:
    config = transformers.Qwen3Config(**LLAMA, attention_bias=True)
    return transformers.Qwen3ForCausalLM(config)


LLAMAS = (llama, llama31, mistral, qwen2, qwen3, olmo2, phi3, phi3_longrope)
LLAMAS += (llama_biased, qwen3_biased)
