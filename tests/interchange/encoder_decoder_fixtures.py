"""The encoder-decoders of `make_fixtures.py`."""

from __future__ import annotations

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from fixture_sizes import LENGTH, VOCAB

T5 = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 15,
}


def t5() -> transformers.PreTrainedModel:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))


def t5_v1_1() -> transformers.PreTrainedModel:
    """A readout of its own, as the published files have it; transformers 5 ties it, and
    writes another configuration."""
    config = transformers.T5Config(
        **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    model = transformers.T5ForConditionalGeneration(config)
    config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCAB, T5["d_model"]))
    return model


def marian() -> transformers.PreTrainedModel:
    """With a bias of the logits, which transformers leaves at 0, and keys of published
    configurations. Values are drawn so that greedy texts have several tokens."""
    config = transformers.MarianConfig(
        vocab_size=VOCAB,
        d_model=12,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=3,
        encoder_ffn_dim=20,
        decoder_ffn_dim=14,
        max_position_embeddings=48,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        forced_eos_token_id=2,
        init_std=0.4,
        static_position_embeddings=True,
        normalize_before=False,
    )
    model = transformers.MarianMTModel(config)
    generator = torch.Generator().manual_seed(2)
    bias = torch.randn(model.final_logits_bias.shape, generator=generator)
    model.final_logits_bias.copy_(0.1 * bias)
    with torch.no_grad():
        model.model.shared.weight.normal_(0, 0.4)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "layers" in name:
                parameter.mul_(0.75)
    return model


TEXT_TO_TEXT = {f.__name__: f for f in (t5, t5_v1_1, marian)}


def whisper() -> transformers.PreTrainedModel:
    config = transformers.WhisperConfig(
        vocab_size=VOCAB,
        d_model=12,
        num_mel_bins=5,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=3,
        encoder_ffn_dim=20,
        decoder_ffn_dim=14,
        max_source_positions=LENGTH,
        max_target_positions=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    return transformers.WhisperForConditionalGeneration(config)
