"""Images with one text each: as patches, as rows of tokens, and as documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer import storage
from transformer.data import records
from transformer.data.images import augment as augmentation
from transformer.data.images import patches
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.data.sources import captions as caption_source
from transformer.data.text import documents, tokenizers
from transformer.data.text.documents import Texts
from transformer.data.text.tokenizers import Tokenizer


def caption_documents(captions: records.Records) -> documents.TextDataset:
    """Each text as a document, to train a tokenizer."""

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for text in getattr(captions, split)["text"]:
            yield from documents.pieces_of([text])

    fingerprint = storage.short_hash("captions", captions.fingerprint)
    return documents.TextDataset(captions.name, fingerprint, pieces)


def decoder_rows(
    tokenizer: Tokenizer, texts: Texts, length: int
) -> dict[str, np.ndarray]:
    """One row for each text: `targets_BL` the text and `end`, `ids_BL` the same shifted
    right after an `end`, int32, 0 behind; `segment_BL` 1 where there is text, and
    `weight_BL` the same in float32.

    ValueError for a text of more than `length` tokens, its end included.
    """
    rows = encoder_rows(tokenizer, texts, length)
    targets_BL, segment_BL = rows["ids_BL"], rows["segment_BL"]
    end_B1 = np.full((len(targets_BL), 1), tokenizer.end)
    ids_BL = np.concatenate([end_B1, targets_BL[:, :-1]], 1)
    return {
        "ids_BL": (ids_BL * segment_BL).astype(np.int32),
        "targets_BL": targets_BL,
        "segment_BL": segment_BL,
        "weight_BL": segment_BL.astype(np.float32),
    }


def encoder_rows(
    tokenizer: Tokenizer, texts: Texts, length: int
) -> dict[str, np.ndarray]:
    """One row for each text: `ids_BL` the text and `end`, `segment_BL` 1 where there is
    text; int32, 0 behind. ValueError as `decoder_rows`."""
    ids_BL = np.zeros((len(texts), length), np.int32)
    segment_BL = np.zeros_like(ids_BL)
    for row, ids in enumerate(tokenizer.encode_pieces(list(texts))):
        size = len(ids) + 1
        if size > length:
            raise ValueError(
                f"{texts[row]!r}: expected at most {length} tokens with its end, "
                f"got {size}"
            )
        ids_BL[row, :size] = [*ids, tokenizer.end]
        segment_BL[row, :size] = 1
    return {"ids_BL": ids_BL, "segment_BL": segment_BL}


class CaptionedImages(NamedTuple):
    """Images with a text each, and how both become tokens.

    patch: rows and columns of a patch. grid: patches down and across.
    patch_features: of a raw patch. length: tokens of the longest text and its end.
    is_cropped: whether images are cropped to a square.
    """

    data: records.Records
    tokenizer: Tokenizer
    patch: tuple[int, int]
    grid: tuple[int, ...]
    patch_features: int
    length: int
    is_cropped: bool = False

    @property
    def patches(self) -> int:
        """The number of patches of an image, L."""
        return math.prod(self.grid)

    @property
    def sizes(self) -> dict[str, Any]:
        """Keywords of a model: grid, patch_features, vocab_size."""
        return {
            "grid": self.grid,
            "patch_features": self.patch_features,
            "vocab_size": self.tokenizer.vocab_size,
        }

    @property
    def abstract_row(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row of raw patches, (1, L, P)."""
        return jax.ShapeDtypeStruct((1, self.patches, self.patch_features), np.float32)

    def prepare(
        self, example: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A `records.Prepare`: the image as `raw_BLP`, all else as it is."""
        example = dict(example)
        return {"raw_BLP": self.to_patches(example.pop("image")), **example}

    def to_patches(self, images: np.ndarray) -> np.ndarray:
        """8-bit images [..., rows, columns, channels] as raw patches [..., L, P]."""
        return patches.from_images(images, self.patch)

    def to_images(self, raw: Any) -> np.ndarray:
        """The 8-bit images nearest to raw patches."""
        return patches.to_images(raw, self.data.train["image"].shape[1:3], self.patch)

    def encoder_rows(self, texts: Texts) -> dict[str, np.ndarray]:
        return encoder_rows(self.tokenizer, texts, self.length)

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """`ids_BL` and `segment_BL` of the encoder rows of texts."""
        rows = self.encoder_rows(texts)
        return rows["ids_BL"], rows["segment_BL"]

    def encoder_split(self, arrays: records.Arrays) -> dict[str, np.ndarray]:
        """The images of a split, and the encoder rows of their texts."""
        return {"image": arrays["image"], **self.encoder_rows(arrays["text"])}

    def decoder_rows(self, texts: Texts) -> dict[str, np.ndarray]:
        return decoder_rows(self.tokenizer, texts, self.length)

    def decoder_split(self, arrays: records.Arrays) -> dict[str, np.ndarray]:
        """The images of a split, and the decoder rows of their texts."""
        return {"image": arrays["image"], **self.decoder_rows(arrays["text"])}

    def splits(
        self,
        rows: Callable[[records.Arrays], dict[str, np.ndarray]],
        *,
        batch_size: int,
        seed: int,
        augment: float,
        evaluation_batch_size: int = 64,
    ) -> tuple[TrainingSplit, EvaluationSplit]:
        """Both splits, with images as `raw_BLP`. rows: `encoder_split` or
        `decoder_split`. augment: distortion of training images."""
        distort = augmentation.random_distortion(augment)
        train = records.training(
            rows(self.data.train),
            batch_size=batch_size,
            seed=seed,
            prepare=augmentation.chain(distort, self.prepare),
            name=self.data.name,
        )
        held_out = records.evaluation(
            rows(self.data.validation),
            batch_size=evaluation_batch_size,
            prepare=self.prepare,
        )
        return train, held_out


def _name_styles(data: records.Records) -> records.Records:
    """`data` whose arrays `text` say the style: "red heart, blob"; of the first style
    nothing is said."""

    def with_style(arrays: records.Arrays) -> records.Arrays:
        if "style" not in arrays:
            return {**arrays, "name": arrays["text"]}
        suffix = ["", *(f", {style}" for style in data.labels[1:])]
        pairs = zip(arrays["text"], arrays["style"], strict=True)
        text = np.array([text + suffix[style] for text, style in pairs], dtype=object)
        return {**arrays, "text": text, "name": arrays["text"]}

    parts = {"train": with_style(data.train), "validation": with_style(data.validation)}
    return data._replace(**parts)


def load(
    source: str,
    image_size: int | None = None,
    columns: str = "",
    *,
    language: str,
    patch: int,
    vocab_size: int,
    workdir: Path | None,
    styles: bool = False,
) -> CaptionedImages:
    """The captions of `source` in `language`, and a BPE of `vocab_size` trained on them
    and saved in `workdir`, if there is one. ValueError where patches of `patch` x
    `patch` pixels do not fill the images.

    styles: let the texts say the style of their image, where the source knows styles;
    the array `name` is the text without it.
    """
    options: Any = {"language": language, "columns": columns}
    data = caption_source.load(source, image_size, **options)
    data = _name_styles(data) if styles else data
    train = partial(tokenizers.bpe, caption_documents(data), vocab_size=vocab_size)
    tokenizer = tokenizers.load_or_train(
        workdir, train, kind="bpe", vocab_size=vocab_size
    )
    *sides, channels = data.train["image"].shape[1:]
    lengths = [
        len(ids)
        for arrays in (data.train, data.validation)
        for ids in tokenizer.encode_pieces(list(arrays["text"]))
    ]
    return CaptionedImages(
        data=data,
        tokenizer=tokenizer,
        patch=(patch, patch),
        grid=patches.grid(sides, (patch, patch)),
        patch_features=patch * patch * channels,
        length=1 + max(lengths),
        is_cropped=image_size is not None,
    )
