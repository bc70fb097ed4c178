"""A tiny folder of Hugging Face, with a tokenizer: a Llama of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from PIL import Image
from scipy.io import wavfile
from tokenizers import models, pre_tokenizers, processors

from transformer.data.audio import log_mel
from transformer.evaluation.log_likelihood import LanguageModel
from transformer.interchange import folder
from transformer.interchange import tokenizer as tokenizer_
from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import encoder_decoders, llama, whisper
from transformer.interchange.rope import Rope

SIZES = llama.Sizes(
    model_type="llama",
    vocab_size=264,
    width=16,
    hidden_features=24,
    depth=1,
    heads=2,
    kv_heads=1,
    head_features=8,
    rotated=8,
    length=64,
    epsilon=1e-5,
    activation="silu",
    rope=Rope(),
    tied=True,
    window=None,
)


def tokenizer_json() -> bytes:
    """A byte-level tokenizer: 256 bytes, one merge, two special tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, "he"])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [("h", "e")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|turn|>"])
    return made.to_str().encode()


def random_params(made: Architecture, sizes: Any, *, scale: float) -> Any:
    """Normal parameters of these sizes."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: made.init(made.net(sizes), jax.random.key(0)))
    return jax.tree.map(
        lambda a: rng.normal(0, scale, a.shape).astype(np.float32), shapes
    )


def write(path: Path) -> Path:
    """Write the folder; returns its path."""
    params = random_params(llama.ARCHITECTURE, SIZES, scale=0.1)
    ends = json.dumps({"eos_token_id": [257, 258]}).encode()
    files = {"tokenizer.json": tokenizer_json(), "generation_config.json": ends}
    made = llama.ARCHITECTURE, SIZES, params
    folder.write_folder(path, *made, companions=files)
    return path


def language_model(path: Path) -> LanguageModel:
    """The model of the folder, with weights of unit size, so that no prediction is
    nearly uniform."""
    opened = folder.open_folder(write(path))
    loud = jax.tree.map(lambda a: 10 * np.asarray(a), opened.read_params())
    params = jax.device_put(loud)
    tokenizer = tokenizer_.read_tokenizer(path)
    return LanguageModel(opened.net, params, tokenizer, SIZES.length, prefix=258)


def write_vit(path: Path) -> Path:
    """A ViT of images of 12 x 12 pixels, with the preprocessing of its folder."""
    fixtures = Path(__file__).parent / "interchange" / "fixtures"
    shutil.copytree(fixtures / "vit", path)
    says = json.loads((fixtures / "preprocessing.json").read_text())["vit"]
    (path / "preprocessor_config.json").write_text(json.dumps(says))
    return path


def write_tokenizer(path: Path, *more: str) -> None:
    """WordPiece of ten tokens, with BERT's special tokens around a text. more: special
    tokens."""
    words = "[PAD] [CLS] [SEP] [UNK] the cat hen ##s sat é".split()
    vocab = {word: number for number, word in enumerate([*words, *more])}
    made: Any = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.add_special_tokens([*words[:4], *more])
    made.enable_truncation(5)
    made.enable_padding(length=5)
    made.save(str(path / "tokenizer.json"))


def write_masked_lm(path: Path, name: str = "bert_mlm") -> Path:
    """The fixture of a masked language model, with a tokenizer as its family has."""
    shutil.copytree(Path(__file__).parent / "interchange" / "fixtures" / name, path)
    if not name.startswith("roberta"):
        write_tokenizer(path, "[MASK]")
        return path
    letters = "abcdefghijklmnopqrstuvwxyz,.\u0120"
    vocab = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", *letters])}
    vocab |= {"he": len(vocab), "<mask>": len(vocab) + 1, "<unk>": len(vocab) + 2}
    made: Any = tokenizers.Tokenizer(models.BPE(vocab, [("h", "e")], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>", "<unk>"])
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"mask_token": {"content": "<mask>", "lstrip": True}})
    )
    return path


def write_whisper(path: Path, *, languages: tuple[str, ...] = ("en", "pt")) -> Path:
    """A Whisper of windows of 0.4 s and one block on each side, with the bytes and
    special tokens of one; a model of English only where there are no languages."""
    made: Any = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    tasks = ("translate", "transcribe") if languages else ()
    names = ("start", *languages, *tasks, "notimestamps")
    made.add_special_tokens([f"<|{name}|>" for name in names])
    sizes = whisper.Sizes(
        # Three tokens of time are behind the others.
        vocab_size=made.get_vocab_size() + 3,
        width=12,
        mels=5,
        encoder=encoder_decoders.StackSizes(1, heads=2, hidden_features=16),
        decoder=encoder_decoders.StackSizes(1, heads=2, hidden_features=16),
        activation="gelu",
        source_length=20,
        target_length=48,
    )
    params = random_params(whisper.ARCHITECTURE, sizes, scale=0.3)
    start = made.token_to_id("<|start|>")
    says: dict[str, Any] = {"eos_token_id": 257, "decoder_start_token_id": start}
    known = {f"<|{name}|>": made.token_to_id(f"<|{name}|>") for name in languages}
    generation = {**says, "lang_to_id": known, "is_multilingual": bool(languages)}
    files = {
        "tokenizer.json": made.to_str().encode(),
        "generation_config.json": json.dumps(generation).encode(),
        "preprocessor_config.json": json.dumps({"feature_size": sizes.mels}).encode(),
    }
    folder.write_folder(
        path,
        whisper.ARCHITECTURE,
        sizes,
        params,
        companions=files,
        token_ids=says,
    )
    return path


def write_recordings(path: Path, texts: list[str], *, seconds: float = 0.3) -> Path:
    """A folder of tones, a higher one for each text, and their table; returns the
    table's path."""
    path.mkdir()
    time = np.arange(round(seconds * log_mel.RATE)) / log_mel.RATE
    for number, _ in enumerate(texts):
        tone = 0.5 * np.sin(2 * np.pi * 200 * (number + 1) * time)
        wavfile.write(path / f"{number}.wav", log_mel.RATE, tone.astype(np.float32))
    rows = [f"{number}.wav\t{text}" for number, text in enumerate(texts)]
    (path / "clips.tsv").write_text("\n".join(["path\ttext", *rows]) + "\n")
    return path / "clips.tsv"


def write_video(path: Path, frames: np.ndarray) -> Path:
    """An animation without loss, or an `.npz` file, of uint8 [frames, rows, columns,
    3]; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = frames.astype(np.uint8)
    if path.suffix == ".npz":
        np.savez(path, frames=pixels)
        return path
    first, *rest = (Image.fromarray(frame) for frame in pixels)
    how: Any = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, **how)
    return path


def write_videos(path: Path, count: int) -> Path:
    """Class folders of `count` videos each, of 6 frames of 10 x 12 pixels, in which a
    bright bar moves up or down; returns the folder."""
    for label, step in (("up", -1), ("down", 1)):
        for number in range(count):
            frames = np.zeros((6, 10, 12, 3), np.uint8) + np.uint8(number)
            for time in range(6):
                frames[time, (number + step * time) % 10] = 255
            write_video(path / label / f"{number}.gif", frames)
    return path


def write_videomae(path: Path, name: str = "videomae") -> Path:
    """The fixture of 4 frames of 8 x 8 pixels, with a preprocessing as those that are
    published have; returns the folder."""
    fixtures = Path(__file__).parent / "interchange" / "fixtures"
    shutil.copytree(fixtures / name, path)
    says = {
        "image_processor_type": "VideoMAEImageProcessor",
        **{"do_resize": True, "size": {"shortest_edge": 8}, "resample": 2},
        **{"do_center_crop": True, "crop_size": {"height": 8, "width": 8}},
        **{"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
        **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    }
    (path / "preprocessor_config.json").write_text(json.dumps(says))
    return path


def write_dual_encoder(path: Path, name: str = "clip") -> Path:
    """A CLIP or SigLIP of images of 12 x 12 pixels, with preprocessing and a tokenizer
    whose end has the highest id, which transformers looks for."""
    fixtures = Path(__file__).parent / "interchange" / "fixtures"
    shutil.copytree(fixtures / name, path)
    says = json.loads((fixtures / "preprocessing.json").read_text())[name]
    (path / "preprocessor_config.json").write_text(json.dumps(says))
    words = "[PAD] [UNK] red green blue dark light square".split()
    vocab = {word: number for number, word in enumerate([*words, "[END]"])}
    made: Any = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", len(words))]
    )
    made.save(str(path / "tokenizer.json"))
    return path


def write_captions(path: Path, count: int = 80, side: int = 12) -> Path:
    """A folder of plain squares with noise, and a table that names their color."""
    rng, path = np.random.default_rng(0), path / "squares"
    path.mkdir(parents=True)
    names = [
        f"{shade} {color}"
        for shade in ("dark", "light")
        for color in ("red", "green", "blue")
    ]
    lines = ["file\ttext"]
    for number in range(count):
        kind = number % len(names)
        shade, color = divmod(kind, 3)
        pixels = rng.integers(0, 40, (side, side, 3), np.uint8)
        pixels[..., color] += np.uint8(90 + 120 * shade)
        Image.fromarray(pixels).save(path / f"{number}.png")
        lines.append(f"{number}.png\t{names[kind]} square")
    (path / "captions.tsv").write_text("\n".join(lines))
    return path
