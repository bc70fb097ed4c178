"""Tiny mixtures of experts of transformers, for make_fixtures.py. sizes: those of a
tiny Llama."""

from __future__ import annotations

from typing import Any

import transformers  # pyright: ignore[reportMissingImports]

EXPERTS = {"intermediate_size": 12, "num_local_experts": 5, "num_experts_per_tok": 2}


def mixtral(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    config = transformers.MixtralConfig(**{**sizes, **EXPERTS}, sliding_window=7)
    return transformers.MixtralForCausalLM(config)


def qwen3_moe(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    config = transformers.Qwen3MoeConfig(
        **sizes,
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
    )
    return transformers.Qwen3MoeForCausalLM(config)


def qwen2_moe(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    config = transformers.Qwen2MoeConfig(
        **{k: v for k, v in sizes.items() if k != "head_dim"},
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=20,
    )
    return transformers.Qwen2MoeForCausalLM(config)


def glm4_moe(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    """One dense layer; the bias of a choice is no parameter there, and 0 at first."""
    config = transformers.Glm4MoeConfig(
        **{**sizes, "num_hidden_layers": 3},
        first_k_dense_replace=1,
        n_routed_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        n_group=3,
        topk_group=2,
        routed_scaling_factor=1.7,
        use_qk_norm=True,
        attention_bias=True,
        num_mtp_layers=0,
    )
    model = transformers.Glm4MoeForCausalLM(config)
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.normal_(std=0.3)
    return model


def gpt_oss(sizes: dict[str, Any]) -> transformers.PreTrainedModel:
    """A low limit, so that gates are clamped; the text is longer than the length from
    which YaRN extrapolates."""
    config = transformers.GptOssConfig(
        **{**sizes, **EXPERTS},
        sliding_window=5,
        swiglu_limit=0.8,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 4.0,
            "beta_fast": 2.0,
            "beta_slow": 0.2,
            "truncate": False,
            "original_max_position_embeddings": 16,
        },
        max_position_embeddings=64,
    )
    return transformers.GptOssForCausalLM(config)


MIXTURES = (glm4_moe, gpt_oss, mixtral, qwen2_moe, qwen3_moe)
