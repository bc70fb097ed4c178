"""Configurations of published encoders, of a decision transformer and of DiT are read,
in the keys that their files have, and their nets have as many parameters as there."""

from __future__ import annotations

import math
from typing import Any

import jax
import pytest

from transformer.interchange import architecture
from transformer.interchange.config import Reader
from transformer.training.checksum import leaf_paths

BASE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
TEXT = {**BASE, "intermediate_size": 3072}
# Name: parameters, config.json but for lists of classes.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "google-bert/bert-base-uncased": (
        109_514_298,
        {
            **TEXT,
            "architectures": ["BertForMaskedLM"],
            "gradient_checkpointing": False,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "model_type": "bert",
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "transformers_version": "4.6.0.dev0",
            "type_vocab_size": 2,
            "use_cache": True,
            "vocab_size": 30522,
        },
    ),
    "FacebookAI/roberta-base": (
        124_697_433,
        {
            **TEXT,
            "architectures": ["RobertaForMaskedLM"],
            "bos_token_id": 0,
            "eos_token_id": 2,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "model_type": "roberta",
            "pad_token_id": 1,
            "type_vocab_size": 1,
            "vocab_size": 50265,
        },
    ),
    "distilbert/distilbert-base-uncased": (
        66_985_530,
        {
            "activation": "gelu",
            "architectures": ["DistilBertForMaskedLM"],
            "attention_dropout": 0.1,
            "dim": 768,
            "dropout": 0.1,
            "hidden_dim": 3072,
            "initializer_range": 0.02,
            "max_position_embeddings": 512,
            "model_type": "distilbert",
            "n_heads": 12,
            "n_layers": 6,
            "pad_token_id": 0,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
            "vocab_size": 30522,
        },
    ),
    "answerdotai/ModernBERT-base": (
        149_655_232,
        {
            "architectures": ["ModernBertForMaskedLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "classifier_activation": "gelu",
            "classifier_bias": False,
            "classifier_pooling": "mean",
            "cls_token_id": 50281,
            "decoder_bias": True,
            "deterministic_flash_attn": False,
            "embedding_dropout": 0.0,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "hidden_activation": "gelu",
            "hidden_size": 768,
            "initializer_cutoff_factor": 2.0,
            "intermediate_size": 1152,
            "layer_norm_eps": 1e-05,
            "local_attention": 128,
            "local_rope_theta": 10000.0,
            "max_position_embeddings": 8192,
            "mlp_bias": False,
            "mlp_dropout": 0.0,
            "model_type": "modernbert",
            "norm_bias": False,
            "norm_eps": 1e-05,
            "num_attention_heads": 12,
            "num_hidden_layers": 22,
            "pad_token_id": 50283,
            "position_embedding_type": "absolute",
            "sep_token_id": 50282,
            "sparse_pred_ignore_index": -100,
            "sparse_prediction": False,
            "tie_word_embeddings": True,
            "vocab_size": 50368,
        },
    ),
    "google/vit-base-patch16-224-in21k": (
        86_389_248,
        {
            **TEXT,
            "architectures": ["ViTModel"],
            "image_size": 224,
            "layer_norm_eps": 1e-12,
            "model_type": "vit",
            "num_channels": 3,
            "patch_size": 16,
            "qkv_bias": True,
        },
    ),
    "facebook/dinov2-base": (
        86_580_480,
        {
            **BASE,
            "apply_layernorm": True,
            "architectures": ["Dinov2Model"],
            "drop_path_rate": 0.0,
            "image_size": 518,
            "layer_norm_eps": 1e-06,
            "layerscale_value": 1.0,
            "mlp_ratio": 4,
            "model_type": "dinov2",
            "num_channels": 3,
            "out_features": ["stage12"],
            "out_indices": [12],
            "patch_size": 14,
            "qkv_bias": True,
            "reshape_hidden_states": True,
            "stage_names": ["stem", "stage12"],
            "use_swiglu_ffn": False,
        },
    ),
    "MCG-NJU/videomae-base-finetuned-kinetics": (
        86_534_800,
        {
            **TEXT,
            "architectures": ["VideoMAEForVideoClassification"],
            "decoder_hidden_size": 384,
            "decoder_intermediate_size": 1536,
            "decoder_num_attention_heads": 6,
            "decoder_num_hidden_layers": 4,
            "id2label": {str(i): f"action {i}" for i in range(400)},
            "image_size": 224,
            "layer_norm_eps": 1e-12,
            "model_type": "videomae",
            "norm_pix_loss": False,
            "num_channels": 3,
            "num_frames": 16,
            "patch_size": 16,
            "problem_type": "single_label_classification",
            "qkv_bias": True,
            "tubelet_size": 2,
            "use_mean_pooling": True,
        },
    ),
    "edbeeching/decision-transformer-gym-hopper-medium": (
        1_255_055,
        {
            "act_dim": 3,
            "action_tanh": True,
            "activation_function": "relu",
            "architectures": ["DecisionTransformerModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "hidden_size": 128,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "max_ep_len": 4096,
            "max_length": 20,
            "model_type": "decision_transformer",
            "n_head": 1,
            "n_inner": None,
            "n_layer": 3,
            "n_positions": 1024,
            "reorder_and_upcast_attn": False,
            "resid_pdrop": 0.1,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
            "state_dim": 11,
            "transformers_version": "4.17.0.dev0",
            "use_cache": True,
            "vocab_size": 1,
        },
    ),
    # The older class; 27 copies of the embedding of timestep and class are not counted.
    "facebook/DiT-XL-2-256": (
        674_834_720,
        {
            "_class_name": "Transformer2DModel",
            "_diffusers_version": "0.12.0.dev0",
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
            "attention_head_dim": 72,
            "cross_attention_dim": None,
            "dropout": 0.0,
            "in_channels": 4,
            "norm_elementwise_affine": False,
            "norm_num_groups": 32,
            "norm_type": "ada_norm_zero",
            "num_attention_heads": 16,
            "num_embeds_ada_norm": 1000,
            "num_layers": 28,
            "num_vector_embeds": None,
            "only_cross_attention": False,
            "out_channels": 8,
            "patch_size": 2,
            "sample_size": 32,
            "upcast_attention": False,
            "use_linear_projection": False,
        },
    ),
    "openai/clip-vit-base-patch32": (
        151_277_313,
        {
            "architectures": ["CLIPModel"],
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "model_type": "clip",
            "projection_dim": 512,
            "text_config": {"model_type": "clip_text_model", "num_beams": 1},
            "text_config_dict": None,
            "vision_config": {"model_type": "clip_vision_model", "dropout": 0.0},
            "vision_config_dict": {"num_hidden_layers": 12},
        },
    ),
    "google/siglip-base-patch16-224": (
        203_155_970,
        {
            "architectures": ["SiglipModel"],
            "initializer_factor": 1.0,
            "model_type": "siglip",
            "text_config": {"model_type": "siglip_text_model"},
            "vision_config": {"model_type": "siglip_vision_model"},
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_has_as_many_parameters(name: str) -> None:
    count, values = PUBLISHED[name]
    kind = architecture.find_of(values, name)
    config = Reader(values, name)
    sizes = kind.read(config)
    config.finish()
    # A scanned stack has equal numbers and is traced once.
    sizes = sizes._replace(scanned=True)
    net = kind.net(sizes)
    shapes = jax.eval_shape(lambda: kind.init(net, jax.random.key(0)))
    assert sum(math.prod(a.shape) for a in leaf_paths(shapes).values()) == count
    again = Reader(kind.write(sizes), name)
    assert kind.read(again) == sizes._replace(scanned=False)
    again.finish()
