"""Make the fixtures: tiny folders of Hugging Face with the numbers of transformers.

    pip install -e '.[reference]' && python tests/interchange/make_fixtures.py [NAME...]

Every parameter is noised, so that no gain is 1 and no bias 0. Sizes are awkward: heads
times head features is not the width, fewer key heads than query heads, a vocabulary of
a prime number.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import llama_models
import mixture_models
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from encoder_decoder_fixtures import TEXT_TO_TEXT, whisper
from fixture_sizes import LENGTH, NEW_TOKENS, VOCAB
from llama_models import IDS, LLAMA

FOLDER = Path(__file__).parent / "fixtures"


def gpt2() -> transformers.PreTrainedModel:
    sizes = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**IDS, **sizes))


def gpt_neox() -> transformers.PreTrainedModel:
    config = transformers.GPTNeoXConfig(
        **IDS,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        rotary_pct=0.5,
    )
    return transformers.GPTNeoXForCausalLM(config)


def gemma() -> transformers.PreTrainedModel:
    return transformers.GemmaForCausalLM(transformers.GemmaConfig(**LLAMA))


def gemma3() -> transformers.PreTrainedModel:
    config = transformers.Gemma3TextConfig(
        **LLAMA,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=20,
    )
    return transformers.Gemma3ForCausalLM(config)


MIXTURE = {**LLAMA, "num_hidden_layers": 2}


def gemma2() -> transformers.PreTrainedModel:
    """Caps that are low enough to show at these scores and logits."""
    config = transformers.Gemma2Config(
        **MIXTURE,
        sliding_window=5,
        query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    )
    return transformers.Gemma2ForCausalLM(config)


DECODERS = {
    f.__name__: f for f in (*llama_models.LLAMAS, gpt2, gpt_neox, gemma, gemma3)
}
DECODERS |= {f.__name__: partial(f, MIXTURE) for f in mixture_models.MIXTURES}
DECODERS["gemma2"] = gemma2


def add_noise(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """`model` in float32 with normal noise on every parameter that files have."""
    generator = torch.Generator().manual_seed(1)
    left_out = model._keys_to_ignore_on_save or ()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in left_out:
                continue
            scale = 0.15 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(scale * noise)
    return model.eval().float()


def write_decoder(name: str) -> None:
    """A folder with the model, its logits, and 16 tokens of greedy decoding."""
    torch.manual_seed(0)
    model, folder = add_noise(DECODERS[name]()), FOLDER / name
    # No token ends a text, and none is kept from being chosen.
    model.generation_config.eos_token_id = None
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    ids = torch.tensor(np.random.default_rng(3).integers(3, VOCAB, (2, LENGTH)))
    with torch.no_grad():
        logits = model(ids).logits.numpy()
        greedy = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )
    numbers = {"ids_BL": ids.numpy().astype(np.int32), "greedy_BL": greedy.numpy()}
    np.savez_compressed(folder / "reference.npz", logits_BLV=logits, **numbers)


def write_text_to_text(name: str) -> None:
    """A folder with the model, the logits of a target, and 16 tokens of greedy
    decoding. The second source ends early, in padding."""
    torch.manual_seed(0)
    model, folder = add_noise(TEXT_TO_TEXT[name]()), FOLDER / name
    generation = model.generation_config
    generation.eos_token_id = generation.forced_eos_token_id = None
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if not model.config.tie_word_embeddings:
        # The published files do not have this key.
        config = json.loads((folder / "config.json").read_text())
        del config["scale_decoder_outputs"]
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    rng = np.random.default_rng(3)
    source = torch.tensor(rng.integers(3, VOCAB, (2, LENGTH)))
    source[1, 14:] = 0
    target = torch.tensor(rng.integers(3, VOCAB, (2, LENGTH)))
    mask = (source != 0).long()
    with torch.no_grad():
        logits = model(source, attention_mask=mask, decoder_input_ids=target).logits
        greedy = model.generate(
            source, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS
        )
    numbers = {"source_BL": source, "ids_BL": target, "greedy_BL": greedy}
    if name == "marian":
        # As published: a text ends at the last token, and padding is none.
        generation.eos_token_id = generation.forced_eos_token_id = 2
        generation.bad_words_ids = [[0]]
        generation.save_pretrained(folder)
        numbers["ended_BL"] = model.generate(
            source, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS
        )
    numbers = {k: v.numpy().astype(np.int32) for k, v in numbers.items()}
    path = folder / "reference.npz"
    np.savez_compressed(path, logits_BLV=logits.numpy(), **numbers)


def write_whisper(name: str) -> None:
    """A folder with the model, the logits of a target for two rows of frames, and 16
    tokens of greedy decoding: the most likely ones, for `generate` does more."""
    torch.manual_seed(0)
    model, folder = add_noise(whisper()), FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    rng = np.random.default_rng(3)
    frames = torch.tensor(rng.standard_normal((2, 5, 2 * LENGTH)).astype(np.float32))
    target = torch.tensor(rng.integers(3, VOCAB, (2, LENGTH)))
    greedy = torch.full((2, 1), 3)
    with torch.no_grad():
        logits = model(frames, decoder_input_ids=target).logits
        for _ in range(NEW_TOKENS):
            last = model(frames, decoder_input_ids=greedy).logits[:, -1]
            greedy = torch.cat([greedy, last.argmax(-1, keepdim=True)], dim=1)
    np.savez_compressed(
        folder / "reference.npz",
        logits_BLV=logits.numpy(),
        raw_BLP=frames.numpy().swapaxes(1, 2),
        ids_BL=target.numpy().astype(np.int32),
        greedy_BL=greedy.numpy().astype(np.int32),
    )


def write_log_mel() -> None:
    """Half a second of a rising tone in noise, as 16-bit samples, and some of the 3000
    frames of its window; the last ones are silence."""
    seconds = np.arange(8000) / 16_000
    tone = 0.4 * np.sin(2 * np.pi * (200 + 3000 * seconds) * seconds)
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(seconds))
    samples = np.round(32_768 * (tone + noise)).astype(np.int16)
    numbers = {"samples": samples, "index": np.r_[0:60:7, 2999]}
    for mels in (80, 128):
        extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
        sound = samples.astype(np.float32) / 32_768
        frames = extractor(sound, sampling_rate=16_000, return_tensors="np")
        numbers[f"frames_{mels}"] = frames.input_features[0].T[numbers["index"]]
    np.savez_compressed(FOLDER / "log_mel.npz", **numbers)


# Encoders. Two rows of text, the second one padded; two images of 12 x 12 pixels.
ENCODER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT = {**ENCODER, "vocab_size": VOCAB, "max_position_embeddings": 32}
IMAGE = {**ENCODER, "image_size": 12, "patch_size": 4}
DINO = {k: v for k, v in IMAGE.items() if k != "intermediate_size"}
DISTILBERT = {
    **{"vocab_size": VOCAB, "max_position_embeddings": 32, "dim": 24},
    **{"hidden_dim": 40, "n_layers": 2, "n_heads": 4},
}
MODERNBERT = {
    **TEXT,
    **{"num_hidden_layers": 3, "local_attention": 6},
    **{"bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2},
    "pad_token_id": 0,
}
TOWERS = {
    "text_config": {
        **{**TEXT, "hidden_size": 20, "intermediate_size": 28},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    },
    "vision_config": {**IMAGE, "intermediate_size": 32},
}
SIGLIP = {**TOWERS, "text_config": {**TOWERS["text_config"], "projection_size": 24}}

ENCODERS = {
    "bert": lambda t: t.BertModel(t.BertConfig(**TEXT)),
    "bert_mlm": lambda t: t.BertForMaskedLM(t.BertConfig(**TEXT)),
    "roberta": lambda t: t.RobertaModel(t.RobertaConfig(**TEXT)),
    "roberta_mlm": lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**TEXT)),
    "distilbert": lambda t: t.DistilBertForMaskedLM(t.DistilBertConfig(**DISTILBERT)),
    "modernbert": lambda t: t.ModernBertModel(t.ModernBertConfig(**MODERNBERT)),
    "modernbert_mlm": lambda t: t.ModernBertForMaskedLM(
        t.ModernBertConfig(**MODERNBERT)
    ),
    "bert_classifier": lambda t: t.BertForSequenceClassification(
        t.BertConfig(**TEXT, num_labels=3)
    ),
    "roberta_classifier": lambda t: t.RobertaForSequenceClassification(
        t.RobertaConfig(**TEXT, num_labels=3)
    ),
    "distilbert_classifier": lambda t: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(**DISTILBERT, num_labels=3)
    ),
    "dinov2_classifier": lambda t: t.Dinov2ForImageClassification(
        t.Dinov2Config(**DINO, mlp_ratio=2, num_labels=5)
    ),
    "vit": lambda t: t.ViTModel(t.ViTConfig(**IMAGE)),
    "vit_classifier": lambda t: t.ViTForImageClassification(
        t.ViTConfig(**IMAGE, num_labels=5)
    ),
    "dinov2": lambda t: t.Dinov2Model(t.Dinov2Config(**DINO, mlp_ratio=2)),
    "dinov2_registers": lambda t: t.Dinov2WithRegistersForImageClassification(
        t.Dinov2WithRegistersConfig(
            **DINO, mlp_ratio=2, num_register_tokens=3, num_labels=5
        )
    ),
    "clip": lambda t: t.CLIPModel(t.CLIPConfig(**TOWERS, projection_dim=20)),
    "siglip": lambda t: t.SiglipModel(t.SiglipConfig(**SIGLIP)),
}

TOWER = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ENCODERS |= {
    "clip_text": lambda t: t.CLIPTextModel(t.CLIPTextConfig(**TOWER)),
    "clip_text_projection": lambda t: t.CLIPTextModelWithProjection(
        t.CLIPTextConfig(**TOWER, projection_dim=20)
    ),
    "clip_vision": lambda t: t.CLIPVisionModel(t.CLIPVisionConfig(**IMAGE)),
    "clip_vision_projection": lambda t: t.CLIPVisionModelWithProjection(
        t.CLIPVisionConfig(**IMAGE, projection_dim=20)
    ),
    "siglip_text": lambda t: t.SiglipTextModel(
        t.SiglipTextConfig(**TOWER, projection_size=20)
    ),
    "siglip_vision": lambda t: t.SiglipVisionModel(t.SiglipVisionConfig(**IMAGE)),
}


def encoder_inputs(name: str) -> dict[str, torch.Tensor]:
    """The inputs of transformers, by its names."""
    generator = np.random.default_rng(3)
    ids = generator.integers(3, VOCAB, (2, LENGTH))
    mask = np.ones_like(ids)
    if not name.startswith("siglip"):
        mask[1, -5:] = 0
    # The last real token of CLIP is the one with the largest id.
    last = mask.sum(1) - 1
    ids[[0, 1], last] = VOCAB - 1
    ids[mask == 0] = 1 if name.startswith("roberta") else 0
    kinds = (np.arange(LENGTH) > LENGTH // 3) * mask
    pixels = generator.standard_normal((2, 3, 12, 12)).astype(np.float32)
    text = {"input_ids": ids, "attention_mask": mask}
    if name.startswith("bert"):
        text["token_type_ids"] = kinds
    image: dict[str, np.ndarray] = {"pixel_values": pixels}
    if name == "dinov2":
        image["bool_masked_pos"] = generator.random((2, 9)) < 0.4
    towers = name in ("clip", "siglip")
    is_image = name.startswith(("vit", "dinov2")) or "_vision" in name
    inputs = image if is_image else text
    inputs = {**text, **image} if towers else inputs
    return {key: torch.tensor(value) for key, value in inputs.items()}


def write_encoder(name: str) -> None:
    """A folder with the model, and its inputs and outputs by transformers' names."""
    torch.manual_seed(0)
    model, folder = add_noise(ENCODERS[name](transformers)), FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    inputs = encoder_inputs(name)
    with torch.no_grad():
        outputs = model(**inputs)
    names = (
        *("last_hidden_state", "pooler_output", "logits"),
        *("image_embeds", "text_embeds", "logits_per_image"),
    )
    values = {key: outputs[key] for key in names if outputs.get(key) is not None}
    numbers = {key: value.numpy() for key, value in {**inputs, **values}.items()}
    np.savez_compressed(folder / "reference.npz", **numbers)


if __name__ == "__main__":
    every = *DECODERS, *TEXT_TO_TEXT, "whisper", "log_mel", *ENCODERS
    for chosen in sys.argv[1:] or every:
        if chosen in ENCODERS:
            write_encoder(chosen)
        elif chosen == "log_mel":
            write_log_mel()
        elif chosen == "whisper":
            write_whisper(chosen)
        elif chosen in TEXT_TO_TEXT:
            write_text_to_text(chosen)
        else:
            write_decoder(chosen)
