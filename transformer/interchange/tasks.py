"""What one does with a pretrained model, by its kind: the verbs of
`experiments.pretrained` beside those of every experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from transformer import checks, storage
from transformer.interchange import (
    chat,
    classification,
    folder,
    image_rows,
    speech,
    text_embedding,
    text_rows,
    text_to_text,
    tokenizer,
    video_rows,
)
from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import clip_tower, videomae, vit, whisper
from transformer.interchange.text_rows import TextRows
from transformer.models import bert, clip, encoder, pooling
from transformer.models.shared_encoder_decoder import SharedEncoderDecoder
from transformer.training import metrics

# Rows of a printed table.
SHOWN = 8
BEST = 5
# `pad_token_id` of a dual encoder's texts where no file says it.
PAIRS_PADDING = 1


class Model(NamedTuple):
    """A folder of another library, without parameters: what its configuration says, and
    the net of that."""

    folder: Path
    architecture: Architecture
    sizes: Any
    net: Any

    @property
    def name(self) -> str:
        """The class of transformers."""
        return self.architecture.name(self.sizes)


class Task(NamedTuple):
    """run(model, params, workdir, *, ...): its keywords are the flags of the verb.
    applies(model): whether a model of this kind offers it."""

    run: Callable[..., Any]
    applies: Callable[[Model], bool]


def encodes_text(model: Model) -> bool:
    """Whether the model is a text encoder, of whatever head."""
    kinds = (
        encoder.Encoder,
        encoder.Classifier,
        pooling.PooledEncoder,
        bert.TiedMaskedLM,
    )
    return isinstance(model.net, kinds) and hasattr(model.sizes, "vocab_size")


def embeds(model: Model) -> bool:
    """Whether the model is a text encoder with features of each token."""
    return encodes_text(model) and not isinstance(model.net, encoder.Classifier)


def classifies(model: Model) -> bool:
    """Whether the model is a classifier of texts, of images or of videos, or a dual
    encoder."""
    is_known = encodes_text(model) or isinstance(
        model.sizes, vit.Sizes | videomae.Sizes
    )
    is_classifier = is_known and isinstance(model.net, encoder.Classifier)
    return is_classifier or isinstance(model.net, clip.ScoredDualEncoder)


def rows_of(model: Model, longest: int | None = None) -> TextRows:
    """The tokenizer of a model that reads text, within its length and `longest`."""
    sizes = model.sizes
    length = sizes.length - getattr(sizes, "offset", 0)
    return text_rows.read_text_rows(
        model.folder,
        length=length if longest is None else min(length, longest),
        vocab_size=sizes.vocab_size,
        padding=_padding(model),
    )


def _padding(model: Model) -> int:
    """The id after a text. SigLIP reads it like other tokens; of dual encoders it is as
    the tokenizer says, else the configuration or its default."""
    is_tower = isinstance(model.sizes, clip_tower.TextSizes)
    if not isinstance(model.net, clip.ScoredDualEncoder) and not is_tower:
        return getattr(model.sizes, "padding", 0)
    library, _ = tokenizer.read_library(model.folder)
    for name in text_rows.read_special_tokens(model.folder, "pad_token"):
        found = library.token_to_id(name)
        if found is not None:
            return found
    ids = folder.read_token_ids(model.folder)
    ids = ids if is_tower else ids.get("text_config", {})
    said = ids.get("pad_token_id", PAIRS_PADDING)
    return said if type(said) is int and said >= 0 else PAIRS_PADDING


def vectors_of(
    model: Model,
    params: Any,
    texts: Sequence[str],
    mode: str | None,
    *,
    normalize: bool,
) -> tuple[text_embedding.Pooling, np.ndarray]:
    """The pooling of a text encoder, and the vectors [N, D] of texts. SigLIP reads the
    padding of a row."""
    is_tower = isinstance(model.sizes, clip_tower.TextSizes)
    choose = text_embedding.choose_pooling
    choose = text_embedding.own_pooling if is_tower else choose
    how = choose(model.folder, mode, normalize)
    whole = is_tower and not model.sizes.is_clip
    return how, text_embedding.embed(
        model.net, params, rows_of(model), texts, how, whole=whole
    )


def embed(
    model: Model,
    params: Any,
    workdir: Path,
    *,
    text: str = "",
    pooling: Literal["mean", "cls"] | None = None,
    normalize: bool = False,
    output: Path | None = None,
) -> np.ndarray:
    """Print the cosines of the vectors of texts, and return the vectors [N, D].

    Args:
        text: a file with a text in each line, or texts divided by |.
        pooling: mean of the tokens, or cls, the first; default as the folder says.
        normalize: vectors of length 1, also where the folder does not say so.
        output: a new .npz file with the vectors.
    """
    texts = read_texts(text)
    if output is not None and (output.suffix != ".npz" or output.exists()):
        raise ValueError(f"--output: expected a new .npz file, got {output}")
    how, vectors = vectors_of(model, params, texts, pooling, normalize=normalize)
    print(
        f"{len(texts)} texts, vectors of {vectors.shape[1]}, pooling {how.mode}"
        + (", length 1" if how.normalize else "")
    )
    cosines = text_embedding.cosines(vectors[:SHOWN])
    rows = [
        [*(f"{cosine:.3f}" for cosine in row), _shorten(one)]
        for row, one in zip(cosines, texts, strict=False)
    ]
    print(metrics.align(rows))
    if output is not None:
        with storage.name_os_errors(output):
            np.savez_compressed(output, vectors=vectors, texts=np.array(texts))
        print(f"{output}: vectors [{vectors.shape[0]}, {vectors.shape[1]}]")
    return vectors


def classify(
    model: Model,
    params: Any,
    workdir: Path,
    *,
    text: str = "",
    images: str = "",
    videos: str = "",
    labels: str = "",
) -> np.ndarray:
    """Print the most probable classes, and return all probabilities [N, V].

    Args:
        text: a file with a text in each line, or texts divided by |.
        images: files or folders of images, divided by commas.
        videos: as images, for VideoMAE: animated GIF, PNG or WebP, or .npz.
        labels: the classes of images as texts, divided by commas, for CLIP and SigLIP.
    """
    wanted = "text" if encodes_text(model) else "images"
    if isinstance(model.sizes, videomae.Sizes):
        wanted = "videos"
    for name, value in (("text", text), ("images", images), ("videos", videos)):
        if bool(value) != (name == wanted):
            expected = f"--{name}" if name == wanted else f"no --{name}"
            raise ValueError(
                f"{model.name}: expected {expected}, got {value or 'none'}"
            )
    inputs: Sequence[Any] = (
        read_texts(text) if text else image_rows.image_paths(images or videos)
    )
    texts = [label.strip() for label in labels.split(",") if label.strip()]
    names, found = probabilities(model, params, inputs, texts)
    for one, row in zip(inputs, found, strict=True):
        best = np.argsort(-row, kind="stable")[:BEST]
        shown = (f"{names[i]} {100 * row[i]:.1f} %" for i in best)
        print(f"{_shorten(str(one))}: {', '.join(shown)}")
    return found


def probabilities(
    model: Model, params: Any, inputs: Sequence[Any], labels: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the probabilities [N, V] of texts, or of files of
    images or videos. labels: of a dual encoder. ValueError for these of another model.
    """
    net, sizes = model.net, model.sizes
    is_dual = isinstance(net, clip.ScoredDualEncoder)
    if bool(labels) != is_dual:
        expected = "labels" if is_dual else "no labels, it has classes of its own"
        raise ValueError(
            f"{model.name}: expected {expected}, got {', '.join(labels) or 'none'}"
        )
    if encodes_text(model):
        rows = rows_of(model)
        found = classification.classify_texts(net, params, rows, inputs)
        return list(sizes.labels), found
    if isinstance(sizes, videomae.Sizes):
        raw_NLP = video_rows.read_all(model.folder, sizes, inputs)
        found = classification.classify_images(net, params, raw_NLP, extra=0)
        return list(sizes.labels), found
    raw_NLP = classification.read_images(model.folder, sizes.image, inputs)
    if not is_dual:
        extra = sizes.extra_tokens
        found = classification.classify_images(net, params, raw_NLP, extra=extra)
        return list(sizes.labels), found
    is_clip, rows = sizes.model_type == "clip", rows_of(model)
    found = classification.match_images(
        net, params, raw_NLP, rows, labels, is_clip=is_clip
    )
    return list(labels), found


def transcribes(model: Model) -> bool:
    """Whether the model turns sound into text."""
    return isinstance(model.sizes, whisper.Sizes)


def transcribe(
    model: Model,
    params: Any,
    workdir: Path,
    *,
    audio: str = "",
    language: str | None = None,
    task: Literal["transcribe", "translate"] = "transcribe",
) -> list[speech.Transcript]:
    """Print the texts of sound files, and return them.

    Args:
        audio: sound files divided by commas: wav, and with soundfile flac, ogg, mp3.
        language: its code, such as pt; default the most likely one of each file.
        task: translate gives English text.
    """
    files = [file.strip() for file in audio.split(",") if file.strip()]
    if not files:
        raise ValueError("--audio: expected sound files, got none")
    found = speech.transcribe(
        model.folder,
        model.net,
        model.sizes,
        params,
        files,
        language=language,
        task=task,
    )
    for file, one in zip(files, found, strict=True):
        spoken = "" if one.language is None else f", {one.language}"
        print(f"{file} ({one.seconds:.1f} s{spoken}): {one.text}")
    return found


def read_texts(text: str) -> list[str]:
    """The lines of a file, or texts divided by |; empty ones are left out, and counted
    of a file."""
    if not text.strip():
        raise ValueError("--text: expected a file, or texts divided by |, got none")
    if not is_file(text):
        return [part.strip() for part in text.split("|") if part.strip()]
    path = checks.expand_home(Path(text))
    with storage.name_os_errors(path):
        content = path.read_bytes()
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text in UTF-8, got {error.reason}"
        ) from None
    texts = [line for line in lines if line.strip()]
    if len(texts) < len(lines):
        print(f"{path}: {len(lines) - len(texts)} of {len(lines)} lines are empty")
    return texts


def is_file(text: str) -> bool:
    """Whether `text` is the path of a file."""
    try:
        return checks.expand_home(Path(text)).is_file()
    except (OSError, ValueError):  # Longer than a path, or with a null character.
        return False


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_text_to_text(model: Model) -> bool:
    """Whether the model turns text into text by an encoder and a decoder."""
    return isinstance(model.net, SharedEncoderDecoder)


# By verb.
TASKS: Mapping[str, Task] = {
    "generate": Task(text_to_text.generate, is_text_to_text),
    "embed": Task(embed, embeds),
    "classify": Task(classify, classifies),
    "transcribe": Task(transcribe, transcribes),
}


def all_verbs() -> dict[str, Callable[..., Any]]:
    """All verbs, for the flags of a command line."""
    own = {verb: task.run for verb, task in TASKS.items()}
    # Whose flags are those of an encoder-decoder too.
    return {**own, "generate": chat.generate}


def verbs_of(model: Model) -> dict[str, Callable[..., Any]]:
    """The verbs that `model` offers, each as f(params, workdir, *, ...)."""
    return {
        verb: partial(task.run, model)
        for verb, task in TASKS.items()
        if task.applies(model)
    }
