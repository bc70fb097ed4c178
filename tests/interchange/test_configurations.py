"""Configurations of the mixtures, Gemma 2, gpt-oss and T5: refused where the net does
not express them, and dialects that say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transformer.interchange import architecture, folder
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_rope

FIXTURES = Path(__file__).parent / "fixtures"


def sizes_of(name: str, **changes: Any) -> Any:
    """The sizes of a fixture with other values; a key is removed by `...`."""
    values = json.loads((FIXTURES / name / "config.json").read_text()) | changes
    config = Reader({k: v for k, v in values.items() if v is not ...})
    sizes = architecture.find(config.get("model_type"), "test").read(config)
    config.finish()
    return sizes


REFUSED = {
    ("mixtral", "num_local_experts", 0): "a whole number",
    ("mixtral", "num_experts", 3): "num_experts: expected 5, got 3",
    ("qwen3_moe", "decoder_sparse_step", 2): "decoder_sparse_step: expected 1",
    ("qwen3_moe", "mlp_only_layers", (0,)): "mlp_only_layers: expected",
    ("qwen3_moe", "use_sliding_window", True): "use_sliding_window: expected False",
    ("qwen3_moe", "norm_topk_prob", 1): "norm_topk_prob: expected true or false",
    ("qwen3_moe", "shared_expert_intermediate_size", 8): "understood, got shared_",
    ("gemma2", "final_logit_softcapping", 0.0): "a number of more than 0, got 0.0",
    ("gemma2", "layer_types", ("full_attention",)): "layer_types: expected 2 of",
    ("gemma2", "query_pre_attn_scalar", 0): "query_pre_attn_scalar: expected a whole",
    ("gpt_oss", "attention_bias", False): "attention_bias: expected True",
    ("gpt_oss", "rope_parameters", None): "rope_parameters: expected an object",
    ("gpt_oss", "experts_per_token", 3): "experts_per_token: expected 2, got 3",
    ("gpt_oss", "initial_context_length", 8): "initial_context_length: expected 16",
    ("gpt_oss", "quantization_config", "mxfp4"): "expected no quantization_config",
    ("t5", "feed_forward_proj", "tanh"): "feed_forward_proj: expected one of",
    ("t5", "dense_act_fn", "silu"): "dense_act_fn: expected 'relu'",
    ("t5", "relative_attention_max_distance", 6): "more than half of 12 buckets",
    ("t5", "relative_attention_max_distance", 10**9): "at most 65536",
}


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_what_the_net_does_not_express_is_refused(
    name: str, key: str, value: Any
) -> None:
    with pytest.raises(ValueError) as error:
        sizes_of(name, **{key: value})
    assert REFUSED[name, key, value] in str(error.value)
    assert "\n" not in str(error.value)


def test_the_number_of_experts_has_two_keys() -> None:
    expected = sizes_of("qwen3_moe")
    older = {"num_local_experts": ..., "num_experts": 6}
    assert sizes_of("qwen3_moe", **older) == expected


def test_soft_caps_are_of_the_default_where_absent_and_none_where_null() -> None:
    caps = {"attn_logit_softcapping": ..., "final_logit_softcapping": None}
    assert sizes_of("gemma2", **caps).soft_caps == (50.0, None)


def test_older_t5_is_scaled_where_it_is_tied() -> None:
    assert sizes_of("t5", scale_decoder_outputs=...).scaled
    assert not sizes_of("t5_v1_1").scaled
    untied = sizes_of("t5", scale_decoder_outputs=..., tie_word_embeddings=False)
    assert not untied.scaled


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def test_yarn_is_read_in_both_dialects() -> None:
    amplitude = 0.1 * 1.3862943611198906 + 1
    expected = Rope(5e5, "yarn", factor=4.0, length=32, amplitude=amplitude)
    new = {"rope_parameters": {**YARN, "rope_theta": 5e5}}
    older = {k.replace("rope_type", "type"): v for k, v in YARN.items()}
    for values in (new, {"rope_theta": 5e5, "rope_scaling": older}):
        assert read_rope(Reader(values)) == expected


def test_yarn_of_two_scales_has_their_quotient() -> None:
    """As DeepSeek says it; equal scales are an amplitude of 1."""
    both = {"mscale": 1.0, "mscale_all_dim": 1.0}
    rope = read_rope(Reader({"rope_parameters": {**YARN, **both}}))
    assert rope.amplitude == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta_slow": 0.0}, "beta_slow: expected a number of more than 0"),
        ({"factor": -1.0}, "factor: expected a number of more than 0"),
        ({"rope_theta": 1.0}, "rope_theta: expected a number of more than 1"),
        ({"original_max_position_embeddings": None}, "expected original_max_position"),
    ],
)
def test_yarn_of_impossible_values_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rope(Reader({"rope_parameters": {**YARN, **values}}))


@pytest.mark.parametrize(
    "name", ["gemma2", "gpt_oss", "mixtral", "qwen3_moe", "t5", "t5_v1_1"]
)
def test_a_written_configuration_has_the_same_sizes(name: str) -> None:
    sizes = sizes_of(name)
    made = architecture.find(model_type_of(name), "test")
    config = Reader(json.loads(json.dumps(made.write(sizes))))
    assert made.read(config) == sizes
    config.finish()


@pytest.mark.parametrize("name", ["clip", "modernbert"])
def test_an_export_has_all_token_ids(name: str, tmp_path: Path) -> None:
    """Of a part of the configuration (CLIP's texts) and of kinds that the net does not
    depend on (ModernBERT's first and last token)."""
    opened = folder.open_folder(FIXTURES / name)
    ids, params = folder.read_token_ids(FIXTURES / name), opened.read_params()
    made = opened.architecture, opened.sizes
    folder.write_folder(tmp_path / "out", *made, params, token_ids=ids)
    written = folder.read_token_ids(tmp_path / "out")
    assert ids and {key: written[key] for key in ids} == ids
    part = {"clip": "text_config"}.get(name)
    assert part is None or written[part].keys() >= {"bos_token_id", "eos_token_id"}


def test_an_absent_value_is_the_default_of_transformers() -> None:
    """A window of 4096 for Mistral, where null is none; epsilons of 1e-5."""
    assert sizes_of("mistral", sliding_window=...).window == 4096
    assert sizes_of("mistral", sliding_window=None).window is None
    assert sizes_of("phi3", sliding_window=...).window is None
    epsilons = {"llama": 1e-6, "qwen2": 1e-6, "olmo2": 1e-5, "phi3": 1e-5}
    for name, epsilon in epsilons.items():
        assert sizes_of(name, rms_norm_eps=...).epsilon == epsilon


def test_gelu_of_the_first_gemma_is_the_tanh_formula() -> None:
    old = {"hidden_act": "gelu", "hidden_activation": None}
    assert sizes_of("gemma", **old).activation == "gelu_pytorch_tanh"
    with pytest.raises(ValueError, match="hidden_act: expected 'gelu_pytorch_tanh'"):
        sizes_of("gemma2", **old)


CHANGED = {
    "use_mrope": True,
    "rope_interleaved": True,
    "pruned_heads": {"0": [1]},
    "tie_encoder_decoder": True,
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_harmless_key_of_another_value_is_refused(key: str) -> None:
    neutral = {"pruned_heads": {}, "quantization_config": None, "auto_map": None}
    assert sizes_of("llama", **{**neutral, key: None}) == sizes_of("llama")
    with pytest.raises(ValueError, match=f"{key}: expected "):
        sizes_of("llama", **{key: CHANGED[key]})


def model_type_of(name: str) -> str:
    return json.loads((FIXTURES / name / "config.json").read_text())["model_type"]
